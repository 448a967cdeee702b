#include "ceilings.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "best_seconds.h"
#include "tapecache/core/parallel_for.h"

namespace ops_bench {

namespace {

using tapecache::parallel_for;
using tapecache::thread_count;

constexpr std::int64_t kRepeats = 20000;

template <int bytes>
struct Lanes {
  typedef float Vector __attribute__((vector_size(bytes)));
};

/// So many sums of vectors of so many bytes side by side, as registers hold them. Returns what keeps the work from
/// being left out.
template <int bytes, int sums>
[[gnu::always_inline]] inline float multiply_and_add(float x) {
  using Vector = typename Lanes<bytes>::Vector;
  const Vector factor = Vector{} + x;
  Vector sum[sums];
  for (int i = 0; i < sums; ++i) sum[i] = Vector{} + static_cast<float>(i);
  for (std::int64_t n = 0; n < kRepeats; ++n) {
#pragma GCC unroll 16
    for (int i = 0; i < sums; ++i) sum[i] = sum[i] * factor + factor;
  }
  float total = 0;
  for (int i = 0; i < sums; ++i) total += sum[i][0];
  return total;
}

constexpr int kSums = 12;  // latencies of 4 or 5 cycles of two units; 16 registers hold them

#if defined(__x86_64__)
[[gnu::target("avx512f")]] float with_avx512(float x) { return multiply_and_add<64, kSums>(x); }
[[gnu::target("avx2,fma")]] float with_avx2(float x) { return multiply_and_add<32, kSums>(x); }
#endif
float with_any(float x) { return multiply_and_add<16, kSums>(x); }

struct Arithmetic {
  float (*run)(float);
  int lanes;
};

Arithmetic widest() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return {with_avx512, 16};
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return {with_avx2, 8};
#endif
  return {with_any, 4};
}

}  // namespace

double multiply_and_add_once() {
  const Arithmetic arithmetic = widest();
  const int threads = thread_count();
  std::vector<float> results(static_cast<std::size_t>(threads));
  volatile float factor = 0.5f;
  parallel_for(threads, 1, [&](std::int64_t begin, std::int64_t) {
    results[static_cast<std::size_t>(begin)] = arithmetic.run(factor);
  });
  return 2.0 * arithmetic.lanes * kSums * kRepeats * threads;
}

double copy_once(const std::vector<char>& from, std::vector<char>& to, std::int64_t size) {
  const std::int64_t part = size / thread_count();
  parallel_for(thread_count(), 1, [&](std::int64_t begin, std::int64_t) {
    std::memcpy(to.data() + begin * part, from.data() + begin * part, static_cast<std::size_t>(part));
  });
  return 2.0 * static_cast<double>(part * thread_count());
}

void Ceilings::measure() {
  double flops = 0;
  const double seconds = best_seconds(0.1, [&] { flops = multiply_and_add_once(); });
  flops_per_second_ = std::max(flops_per_second_, flops / seconds);
  constexpr std::int64_t kLeast = 1 << 17, kMax = 1 << 26;
  std::vector<char> from(kMax, 1), to(kMax, 2);
  std::size_t i = 0;
  for (std::int64_t size = kLeast; size <= kMax; size *= 2, ++i) {
    if (i == copies_.size()) copies_.push_back({2.0 * static_cast<double>(size), 0});
    double bytes = 0;
    const double copy_seconds = best_seconds(0.04, [&] { bytes = copy_once(from, to, size); });
    copies_[i].bytes_per_second = std::max(copies_[i].bytes_per_second, bytes / copy_seconds);
  }
}

double Ceilings::bytes_per_second(double bytes) const {
  const double place =
      std::clamp(std::log2(bytes / copies_.front().bytes), 0.0, static_cast<double>(copies_.size() - 1));
  const auto below = static_cast<std::size_t>(place), above = std::min(below + 1, copies_.size() - 1);
  const double part = place - static_cast<double>(below);
  return (1 - part) * copies_[below].bytes_per_second + part * copies_[above].bytes_per_second;
}

}  // namespace ops_bench
