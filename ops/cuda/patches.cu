#include <algorithm>

#include "tapecache/core/element.h"
#include "tapecache/ops/cuda/cuda_kernels.h"
#include "tapecache/ops/cuda/divisor.h"
#include "tapecache/ops/cuda/packs.cuh"
#include "tapecache/ops/cuda/put.cuh"

namespace tapecache::kernels::cuda {

namespace {

struct Images {
  std::int64_t batch, channels, height, width, patch;
};

/// The lines of a channel that one row of patches holds, all in packs. They lie together among images [batch, channels,
/// height, width]; among rows [batch, height/patch, width/patch, channels, patch, patch] each run of `patch` elements
/// does.
struct Strips {
  std::int64_t count, size;  // packs of one
  std::int64_t channels, down, patch_size;
  Divisor line, run;

  Strips(const Images& m, std::int64_t pack)
      : count(m.batch * m.channels * (m.height / m.patch)),
        size(m.patch * m.width / pack),
        channels(m.channels),
        down(m.height / m.patch),
        patch_size(m.patch * m.patch / pack),
        line(m.width / pack),
        run(m.patch / pack) {}

  /// Where among rows the first patch of a strip begins.
  __device__ std::int64_t first_patch(std::int64_t strip) const {
    const std::int64_t plane = strip / down, sample = plane / channels;
    const std::int64_t row = (sample * down + strip - plane * down) * (line.value() / run.value());
    return (row * channels + plane - sample * channels) * patch_size;
  }
  /// Where pack i of a strip is, from there.
  __device__ std::int64_t from_first_patch(std::int64_t i) const {
    const std::int64_t u = line.quotient(i), along = i - u * line.value(), across = run.quotient(along);
    return across * channels * patch_size + u * run.value() + along - across * run.value();
  }
};

constexpr int kPacksAtOnce = 4;  // of a thread: read before the first of them is written

template <int kCount, class Work>
__global__ void strips_kernel(Strips strips, Work work) {
  for (std::int64_t strip = blockIdx.x; strip < strips.count; strip += gridDim.x) {
    const std::int64_t image = strip * strips.size, rows = strips.first_patch(strip);
    for (std::int64_t first = threadIdx.x; first < strips.size; first += kPacksAtOnce * blockDim.x) {
      std::int64_t row[kPacksAtOnce];
      typename Work::template Held<kCount> held[kPacksAtOnce];
#pragma unroll
      for (int k = 0; k < kPacksAtOnce; ++k) {
        const std::int64_t i = first + k * blockDim.x;
        if (i < strips.size) {
          row[k] = (rows + strips.from_first_patch(i)) * kCount;
          work.read((image + i) * kCount, row[k], held[k]);
        }
      }
#pragma unroll
      for (int k = 0; k < kPacksAtOnce; ++k) {
        const std::int64_t i = first + k * blockDim.x;
        if (i < strips.size) work.write((image + i) * kCount, row[k], held[k]);
      }
    }
  }
}

/// In packs of kCount elements where runs are made of such and arrays aligned to them, else of half as many.
template <int kCount, class Work, class... T>
void launch_strips(const Images& m, const Work& work, const T*... arrays) {
  if constexpr (kCount > 1) {
    const bool fits =
        m.patch % kCount == 0 && ((reinterpret_cast<std::uintptr_t>(arrays) % alignof(Pack<T, kCount>) == 0) && ...);
    if (!fits) return launch_strips<kCount / 2>(m, work, arrays...);
  }
  if (m.width == 0) return;
  const Strips strips(m, kCount);
  const std::int64_t warps = divide_up(strips.size, std::int64_t{kPacksAtOnce} * 32);
  launch(strips_kernel<kCount, Work>,
         grid_of_rows(strips.count, 32 * static_cast<unsigned>(std::min<std::int64_t>(warps, 8))), strips, work);
}

template <class T>
struct ToRows {
  const ComputedType<T>* x;
  T* rows;

  template <int kCount>
  using Held = Pack<ComputedType<T>, kCount>;
  template <int kCount>
  __device__ void read(std::int64_t image, std::int64_t, Pack<ComputedType<T>, kCount>& held) const {
    held = read_pack<kCount>(x + image);
  }
  template <int kCount>
  __device__ void write(std::int64_t, std::int64_t row, const Pack<ComputedType<T>, kCount>& held) const {
    write_rounded(rows + row, held.x);
  }
};

template <class T, int kCount>
struct Gradients {
  Pack<T, kCount> of_rows, of_image;
};

template <class T>
struct FromRows {
  const T* drows;
  T* dx;
  Mode mode;

  template <int kCount>
  using Held = Gradients<T, kCount>;
  template <int kCount>
  __device__ void read(std::int64_t image, std::int64_t row, Gradients<T, kCount>& held) const {
    held.of_rows = read_pack<kCount>(drows + row);
    if (mode == Mode::kAccumulate) held.of_image = read_pack<kCount>(dx + image);
  }
  template <int kCount>
  __device__ void write(std::int64_t image, std::int64_t, Gradients<T, kCount>& held) const {
    for (int i = 0; i < kCount; ++i) put(held.of_image.x[i], held.of_rows.x[i], mode);
    write_pack(dx + image, held.of_image);
  }
};

template <class T>
void patches(std::int64_t batch, std::int64_t channels, std::int64_t height, std::int64_t width, std::int64_t patch,
             const ComputedType<T>* x, T* rows) {
  launch_strips<kPackBytes / sizeof(T)>({batch, channels, height, width, patch}, ToRows<T>{x, rows}, x, rows);
}

template <class T>
void patches_backward(std::int64_t batch, std::int64_t channels, std::int64_t height, std::int64_t width,
                      std::int64_t patch, const T* drows, T* dx, Mode mode) {
  launch_strips<kPackBytes / sizeof(T)>({batch, channels, height, width, patch}, FromRows<T>{drows, dx, mode}, drows,
                                        dx);
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

}  // namespace tapecache::kernels::cuda
