#include "tapecache/ops/cuda/cuda_kernels.h"
#include "tapecache/ops/cuda/launch.cuh"
#include "tapecache/ops/cuda/put.cuh"

namespace tapecache::kernels::cuda {

namespace {

struct PatchLayout {
  std::int64_t channels, height, width, patch;

  /// Where element i of images [batch, channels, height, width] is among rows [batch, height/patch, width/patch, channels,
  /// patch, patch].
  __device__ std::int64_t at(std::int64_t i) const {
    const std::int64_t line = i / width, w = i - line * width, plane = line / height, h = line - plane * height;
    const std::int64_t sample = plane / channels, channel = plane - sample * channels, down = h / patch, across = w / patch;
    const std::int64_t row = (sample * (height / patch) + down) * (width / patch) + across;
    return ((row * channels + channel) * patch + h - down * patch) * patch + w - across * patch;
  }
};

template <class T>
__global__ void patches_kernel(std::int64_t n, PatchLayout layout, const ComputedType<T>* x, T* rows) {
  for (std::int64_t i = thread_index(); i < n; i += thread_count()) rows[layout.at(i)] = T(x[i]);
}

template <class T>
__global__ void patches_backward_kernel(std::int64_t n, PatchLayout layout, const T* drows, T* dx, Mode mode) {
  for (std::int64_t i = thread_index(); i < n; i += thread_count()) put(dx[i], drows[layout.at(i)], mode);
}

}  // namespace

template <class T>
void patches(std::int64_t batch, std::int64_t channels, std::int64_t height, std::int64_t width, std::int64_t patch,
             const ComputedType<T>* x, T* rows) {
  const std::int64_t n = batch * channels * height * width;
  launch(patches_kernel<T>, grid_for(n), n, PatchLayout{channels, height, width, patch}, x, rows);
}

template <class T>
void patches_backward(std::int64_t batch, std::int64_t channels, std::int64_t height, std::int64_t width,
                      std::int64_t patch, const T* drows, T* dx, Mode mode) {
  const std::int64_t n = batch * channels * height * width;
  launch(patches_backward_kernel<T>, grid_for(n), n, PatchLayout{channels, height, width, patch}, drows, dx, mode);
}

template void patches(std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t, const float*, float*);
template void patches(std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t, const double*, double*);
template void patches(std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t, const float*, BFloat16*);
template void patches(std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t, const float*, Float16*);
template void patches_backward(std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t, const float*, float*,
                               Mode);
template void patches_backward(std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t, const double*, double*,
                               Mode);

}  // namespace tapecache::kernels::cuda
