#pragma once

#include <cstdint>
#include <functional>

#include "tapecache/core/device.h"
#include "tapecache/core/tensor.h"

/// What the parts of the GPU benchmark share: random data, times, and what the device can do at most.
namespace bench_gpu {

inline constexpr tapecache::Device kDevice = tapecache::Device::cuda();

double mebibytes(std::size_t bytes);

/// Random in [-1, 1), on the device.
tapecache::Tensor random_tensor(const tapecache::Shape& shape, std::uint32_t state,
                                tapecache::DType dtype = tapecache::DType::kFloat32);

/// Median seconds of a queued piece of work and of waiting for it; one run more warms up. No fewer than three rounds
/// are taken, no more than `most`, and beyond three only while `seconds` last.
double seconds_of(const std::function<void()>& work, int most = 7, double seconds = 20);

/// FLOP/s of a square product whose factors and result are held in `precision`.
double gemm_ceiling(std::int64_t side, tapecache::DType precision);

/// Bytes read and written a second by a copy.
double copy_ceiling(std::int64_t floats);

}  // namespace bench_gpu
