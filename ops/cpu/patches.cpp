#include "tapecache/core/element.h"
#include "tapecache/ops/cpu/cpu_kernels.h"

namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT {

namespace {

/// Calls body(image offset, row offset) for each run of `patch` elements that lie together in both layouts.
template <class Body>
void for_each_run(std::int64_t batch, std::int64_t channels, std::int64_t height, std::int64_t width,
                  std::int64_t patch, const Body& body) {
  const std::int64_t down = height / patch, across = width / patch;
  parallel_for(batch * down, block_for(channels * patch * width), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t strip = begin; strip < end; ++strip) {
      const std::int64_t sample = strip / down, i = strip % down;
      for (std::int64_t j = 0; j < across; ++j) {
        for (std::int64_t channel = 0; channel < channels; ++channel) {
          for (std::int64_t u = 0; u < patch; ++u) {
            body(((sample * channels + channel) * height + i * patch + u) * width + j * patch,
                 (((strip * across + j) * channels + channel) * patch + u) * patch);
          }
        }
      }
    }
  });
}

template <class T>
void patches(std::int64_t batch, std::int64_t channels, std::int64_t height, std::int64_t width, std::int64_t patch,
             const ComputedType<T>* x, T* rows) {
  for_each_run(batch, channels, height, width, patch, [=](std::int64_t image, std::int64_t row) {
    for (std::int64_t v = 0; v < patch; ++v) rows[row + v] = T(x[image + v]);
  });
}

template <class T>
void patches_backward(std::int64_t batch, std::int64_t channels, std::int64_t height, std::int64_t width,
                      std::int64_t patch, const T* drows, T* dx, Mode mode) {
  for_each_run(batch, channels, height, width, patch, [=](std::int64_t image, std::int64_t row) {
    for (std::int64_t v = 0; v < patch; ++v) put(dx[image + v], drows[row + v], mode);
  });
}

template <class T>
constexpr PatchKernels<T> kPatch{
    .patches = patches<T>,
    .patches_backward = patches_backward<T>,
};
template <class Low>
requires kLowPrecision<Low>
constexpr PatchKernels<Low> kPatch<Low>{
    .patches = patches<Low>,
};

}  // namespace

template <>
const PatchKernels<float> Provided<PatchKernels<float>>::kernels = kPatch<float>;
template <>
const PatchKernels<double> Provided<PatchKernels<double>>::kernels = kPatch<double>;
template <>
const PatchKernels<BFloat16> Provided<PatchKernels<BFloat16>>::kernels = kPatch<BFloat16>;
template <>
const PatchKernels<Float16> Provided<PatchKernels<Float16>>::kernels = kPatch<Float16>;

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT
