#pragma once

#include <cstddef>
#include <cstdint>

#include "tapecache/core/dtype.h"
#include "tapecache/core/element.h"
#include "tapecache/ops/cuda/launch.cuh"
#include "tapecache/ops/cuda/tensor_cores.cuh"

/// Neighbouring elements that a thread reads and writes together: memory gives its full speed only to accesses of 16
/// bytes.
namespace tapecache::kernels::cuda {

constexpr std::size_t kPackBytes = 16;

template <class T, int kCount>
struct alignas(kCount * sizeof(T) < kPackBytes ? kCount * sizeof(T) : kPackBytes) Pack {
  T x[kCount];
};

template <int kCount, class T>
__device__ Pack<T, kCount> read_pack(const T* p) {
  return *reinterpret_cast<const Pack<T, kCount>*>(p);
}

template <class T, int kCount>
__device__ void write_pack(T* p, const Pack<T, kCount>& pack) {
  *reinterpret_cast<Pack<T, kCount>*>(p) = pack;
}

/// Writes values as elements of Out; where that is of 16 bits, as the words that two at a time are rounded to.
template <class Out, class T, int kCount>
__device__ void write_rounded(Out* p, const T (&values)[kCount]) {
  if constexpr (kLowPrecision<Out> && kCount % 2 == 0) {
    const auto word = [&](int k) { return pack<Out>(values[2 * k], values[2 * k + 1]); };
    static_assert(kCount == 2 || kCount == 4 || kCount == 8);
    if constexpr (kCount == 2) *reinterpret_cast<std::uint32_t*>(p) = word(0);
    else if constexpr (kCount == 8) *reinterpret_cast<uint4*>(p) = {word(0), word(1), word(2), word(3)};
    else
      __stcg(reinterpret_cast<uint2*>(p), uint2{word(0), word(1)});  // of an assignment the compiler makes two stores
  } else {
    Pack<Out, kCount> to;
#pragma unroll
    for (int k = 0; k < kCount; ++k) to.x[k] = static_cast<Out>(values[k]);
    write_pack(p, to);
  }
}

/// work.at<k>(i) for the k elements from i on.
template <int kCount, class Work>
__global__ void each_kernel(std::int64_t n, Work work) {
  for (std::int64_t i = thread_index(); i < n / kCount; i += thread_count()) work.template at<kCount>(i * kCount);
  if constexpr (kCount > 1) {
    const std::int64_t rest = n / kCount * kCount + thread_index();
    if (rest < n) work.template at<1>(rest);
  }
}

/// Whether all arrays begin at a multiple of so many bytes.
template <class... T>
bool are_aligned(std::size_t bytes, const T*... arrays) {
  return ((reinterpret_cast<std::uintptr_t>(arrays) % bytes == 0) && ...);
}

/// Does an element-wise piece of work on n elements of the given arrays: in packs that are 16 bytes of the narrowest of
/// them, where every array is aligned to 16 bytes.
template <class Work, class... T>
void launch_each(std::int64_t n, const Work& work, const T*... arrays) {
  constexpr std::size_t kNarrowest = [] {
    std::size_t least = kPackBytes;
    ((least = sizeof(T) < least ? sizeof(T) : least), ...);
    return least;
  }();
  constexpr int kCount = static_cast<int>(kPackBytes / kNarrowest);
  if (are_aligned(kPackBytes, arrays...)) launch(each_kernel<kCount, Work>, grid_for(divide_up(n, kCount)), n, work);
  else launch(each_kernel<1, Work>, grid_for(n), n, work);
}

}  // namespace tapecache::kernels::cuda
