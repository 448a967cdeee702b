#include "measure.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "../timing.h"
#include "tapecache/ops/gemm.h"

namespace bench_gpu {

using namespace tapecache;
using Clock = std::chrono::steady_clock;

double mebibytes(std::size_t bytes) { return static_cast<double>(bytes) / 1048576; }

Tensor random_tensor(const Shape& shape, std::uint32_t state, DType dtype) {
  Tensor t = Tensor::empty(shape);
  float* p = t.mutable_data<float>();
  for (std::int64_t i = 0; i < t.numel(); ++i) {
    p[i] = static_cast<float>((state = state * 1664525u + 1013904223u) >> 8) * 0x1p-23f - 1.0f;
  }
  return t.to(kDevice).to(dtype);
}

double seconds_of(const std::function<void()>& work, int most, double seconds) {
  constexpr int kFewest = 3;
  std::vector<double> rounds;
  const auto begin = Clock::now();
  for (int round = -1; round < most; ++round) {
    if (round >= kFewest && std::chrono::duration<double>(Clock::now() - begin).count() > seconds) break;
    const auto start = Clock::now();
    work();
    kDevice.synchronize();
    if (round >= 0) rounds.push_back(std::chrono::duration<double>(Clock::now() - start).count());
  }
  return Timings::median(std::move(rounds));
}

double gemm_ceiling(std::int64_t side, DType precision) {
  constexpr int kQueued = 8;
  const Tensor a = random_tensor({side, side}, 1, precision), b = random_tensor({side, side}, 2, precision);
  Tensor c = Tensor::empty({side, side}, precision, kDevice);
  const auto n = static_cast<double>(side);
  const double seconds = seconds_of([&] {
    for (int i = 0; i < kQueued; ++i) {
      ops::detail::gemm("gemm_ceiling", {1, side, side, side, false, true}, a, b, {}, {}, c, kernels::Mode::kWrite);
    }
  });
  return kQueued * 2 * n * n * n / seconds;
}

double copy_ceiling(std::int64_t floats) {
  constexpr int kQueued = 8;
  const Tensor from = random_tensor({floats}, 3);
  Tensor to = from.clone();
  const double seconds = seconds_of([&] {
    for (int i = 0; i < kQueued; ++i) to.copy_from(from);
  });
  return kQueued * 2.0 * static_cast<double>(from.bytes()) / seconds;
}

}  // namespace bench_gpu
