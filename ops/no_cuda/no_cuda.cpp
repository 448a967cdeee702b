#include <string>

#include "tapecache/core/device_backend.h"
#include "tapecache/core/error.h"
#include "tapecache/core/op_scope.h"
#include "tapecache/ops/kernels/table.h"

namespace tapecache {

namespace {

[[noreturn]] void throw_no_cuda(const std::string& asked_for) {
  throw DeviceError(asked_for + ": this build has no CUDA backend");
}

/// A function of any type that throws in the name of the running op.
struct Refusal {
  template <class Result, class... Arguments>
  using Function = Result (*)(Arguments...);

  template <class Result, class... Arguments>
  constexpr operator Function<Result, Arguments...>() const {
    return [](Arguments...) -> Result { throw_no_cuda(OpScope::current() ? OpScope::current() : "cuda"); };
  }
};
constexpr Refusal kRefused;

[[noreturn]] void require(const char* op, int device) {
  throw_no_cuda(std::string(op) + ": cuda:" + std::to_string(device) + " is not available");
}

constexpr DeviceBackend::Devices kDevices{
    .count = [] { return 0; },
    .name = kRefused,
    .versions = kRefused,
    .require = require,
    .synchronize = kRefused,
    .waits = []() -> std::uint64_t { return 0; },
};

constexpr DeviceBackend::Memory memory(bool is_host) {
  return {
      .alignment = 256,
      .is_host = is_host,
      .is_pinned = is_host,
      .shares_segments = kRefused,
      .allocate = kRefused,
      .release = [](int, void*) noexcept {},
      .trim = [](int) noexcept {},
      .set_bytes = kRefused,
  };
}
constexpr DeviceBackend::Memory kDeviceMemory = memory(false), kPinnedMemory = memory(true);

constexpr DeviceBackend::Copies kCopies{
    .from_host = kRefused,
    .to_host = kRefused,
    .within = kRefused,
    .async = kRefused,
};

constexpr DeviceBackend::Fills kFills{
    .fill = kRefused,
    .convert = kRefused,
    .accumulate = kRefused,
    .first_non_finite = kRefused,
};

constexpr DeviceBackend::Checks kChecks{.indices = kRefused, .rows = kRefused};

constexpr DeviceBackend::Events kEvents{
    .wait = kRefused,
    .wait_on_host = kRefused,
    .is_done = [](const detail::CopyEvent&) noexcept { return true; },
    .end_of_work = kRefused,
    .wait_captured = kRefused,
};

constexpr DeviceBackend::Graphs kGraphs{
    .begin = kRefused,
    .end = kRefused,
    .cancel = [](int) noexcept {},
    .launch = kRefused,
    .destroy = [](int, DeviceBackend::Graph*) noexcept {},
};

}  // namespace

constinit const DeviceBackend cuda_backend{
    .devices = kDevices,
    .memory = kDeviceMemory,
    .pinned_memory = kPinnedMemory,
    .copies = kCopies,
    .fills = kFills,
    .checks = kChecks,
    .events = kEvents,
    .graphs = &kGraphs,
};

namespace kernels {

const KernelTable& cuda_table(int) { throw_no_cuda("cuda"); }

}  // namespace kernels

}  // namespace tapecache
