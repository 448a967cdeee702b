#include "tapecache/ops/cpu/onednn.h"
#include "tapecache/ops/cpu/onednn_wish.h"

namespace tapecache::kernels::onednn {

namespace {

constexpr const char* kMissing = "TAPECACHE_ONEDNN is 'always', but this build has no oneDNN";

}  // namespace

bool takes(std::int64_t, std::int64_t, std::int64_t) {
  static const bool always = wish() == Wish::kAlways;
  if (always) throw DeviceError(kMissing);
  return false;
}

void multiply(std::int64_t, std::int64_t, std::int64_t, const Matrix&, const Matrix&, float*, std::int64_t, bool,
              const float*) {
  throw DeviceError(kMissing);
}

}  // namespace tapecache::kernels::onednn
