#include "tapecache/ops/cuda/cudnn_library.h"

#include <array>
#include <cstdlib>

#include "tapecache/core/error.h"
#include "tapecache/ops/cuda/cudnn_attention.h"
#include "tapecache/ops/cuda/status.h"

namespace tapecache::kernels::cuda {

namespace {

constexpr std::size_t kOldest = 91600;  // before it, gradients went wrong at lengths that are no multiple of 128

std::string dotted(std::size_t version) {
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
         std::to_string(version % 100);
}

/// Throws ValueError where the environment says nothing known.
std::string wish() {
  const char* value = std::getenv("TAPECACHE_CUDNN");
  const std::string word = value && *value ? value : "auto";
  if (word == "auto" || word == "never" || word == "always") return word;
  throw ValueError("TAPECACHE_CUDNN is '" + word + "', expected always, never or auto");
}

struct Library {
  bool insisted;
  std::optional<CudnnFunctions> functions;
  std::string version, why_not;

  explicit Library(const std::string& word) : insisted(word == "always") {
    if (word == "never") {
      why_not = "TAPECACHE_CUDNN is never";
      return;
    }
    functions = load_cudnn(insisted, why_not);
    if (!functions) return;
    version = dotted(functions->get_version());
    if (functions->get_version() >= kOldest) return;
    why_not = "it is version " + version + ", expected at least " + dotted(kOldest);
    functions.reset();
  }
};

const Library& library() {
  static const Library found(wish());
  if (found.insisted && !found.functions) {
    throw_failure("loading cuDNN, on which TAPECACHE_CUDNN insists,", found.why_not.c_str());
  }
  return found;
}

}  // namespace

const CudnnFunctions* cudnn() { return library().functions ? &*library().functions : nullptr; }

bool cudnn_insisted() { return library().insisted; }

std::string cudnn_version() { return cudnn() ? library().version : "none: " + library().why_not; }

void check(cudnnStatus_t status, const std::string& what) {
  if (status == CUDNN_STATUS_SUCCESS) return;
  std::array<char, 1024> last{};
  cudnn()->get_last_error_string(last.data(), last.size());
  throw_failure(what, (std::string(cudnn()->get_error_string(status)) + ": " + last.data()).c_str());
}

}  // namespace tapecache::kernels::cuda
