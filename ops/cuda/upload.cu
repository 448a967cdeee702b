#include <algorithm>
#include <cstring>

#include "tapecache/ops/cuda/launch.cuh"
#include "tapecache/ops/cuda/transfer.h"

namespace tapecache::kernels::cuda {

namespace {

constexpr std::size_t kParcelBytes = 3584;  // a kernel may have 4 KiB of parameters

struct Parcel {
  std::uint32_t words[kParcelBytes / sizeof(std::uint32_t)];
};

__global__ void unpack_kernel(const __grid_constant__ Parcel parcel, std::size_t words, std::uint32_t* to) {
  for (std::size_t i = threadIdx.x; i < words; i += blockDim.x) to[i] = parcel.words[i];
}

}  // namespace

void upload(const void* from, std::size_t bytes, void* to) {
  for (std::size_t done = 0; done < bytes; done += kParcelBytes) {
    const std::size_t size = std::min(kParcelBytes, bytes - done);
    Parcel parcel;
    std::memcpy(&parcel, static_cast<const std::byte*>(from) + done, size);
    launch(unpack_kernel, grid_of_rows(1), parcel, size / sizeof(std::uint32_t),
           reinterpret_cast<std::uint32_t*>(static_cast<std::byte*>(to) + done));
  }
}

}  // namespace tapecache::kernels::cuda
