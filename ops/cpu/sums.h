#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "tapecache/core/element.h"
#include "tapecache/ops/cpu/vec.h"

/// Sums whose order depends on the number of terms alone. Terms of f32 are added in f32 a few at a time, and those sums
/// in f64, so that a long sum loses nothing. Where a few overflow in f32, each of them is added in f64.
namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT {

/// Halves are added to halves, in f64.
template <class T>
HWY_INLINE double across(const Vec<T>& terms) {
  HWY_ALIGN T lanes[kVecLanes<T>];
  hn::Store(terms, Tag<T>(), lanes);
  double wide[kVecLanes<T>];
  for (std::int64_t i = 0; i < kVecLanes<T>; ++i) wide[i] = static_cast<double>(lanes[i]);
  for (std::int64_t half = kVecLanes<T> / 2; half > 0; half /= 2) {
    for (std::int64_t i = 0; i < half; ++i) wide[i] += wide[i + half];
  }
  return wide[0];
}

/// Sums of kSums kinds along arrays.
template <class T, std::size_t kSums>
class Sums {
 public:
  using State = std::array<Vec<T>, kSums>;

  /// `add(state, i, at)` adds the vector of terms at i to each of the state's sums.
  template <class Add>
  HWY_INLINE void run(std::int64_t count, const Add& add) {
    constexpr std::int64_t kStep = kVecLanes<T>, kPart = kUnroll * kStep, kRun = kTerms * kPart;
    std::int64_t i = 0;
    State state[kUnroll];
    for (; i < count; i += kRun) {
      for (State& s : state) s.fill(zeros<T>());
      const std::int64_t end = count - i < kRun ? count : i + kRun;
      std::int64_t at = i;
      for (; at + kPart <= end; at += kPart) {
        HWY_UNROLL(4)
        for (std::int64_t u = 0; u < kUnroll; ++u) add(state[u], at + u * kStep, Whole());
      }
      if (at < end) add_rest(state[0], at, end, add);
      std::array<double, kSums> part = joined(state);
      if constexpr (std::is_same_v<T, float>) {
        bool finite = true;
        for (const double sum : part) finite = finite && std::isfinite(sum);
        if (!finite) [[unlikely]]
          sum_in_f64(i, end, add, part);
      }
      for (std::size_t k = 0; k < kSums; ++k) totals_[k] += part[k];
    }
  }

  double total(std::size_t k = 0) const { return totals_[k]; }

 private:
  static constexpr std::int64_t kUnroll = kSums == 1 ? 4 : 2, kTerms = 8;

  template <class Add>
  static HWY_INLINE void add_rest(State& state, std::int64_t at, std::int64_t end, const Add& add) {
    for (; at + kVecLanes<T> <= end; at += kVecLanes<T>) add(state, at, Whole());
    if (at == end) return;
    State with_last = state;
    add(with_last, at, First{end - at});
    for (std::size_t k = 0; k < kSums; ++k) state[k] = hn::IfThenElse(first_lanes<T>(end - at), with_last[k], state[k]);
  }
  static HWY_INLINE std::array<double, kSums> joined(const State (&state)[kUnroll]) {
    std::array<double, kSums> part;
    for (std::size_t k = 0; k < kSums; ++k) {
      Vec<T> sum = hn::Add(state[0][k], state[1][k]);
      if constexpr (kUnroll == 4) sum = hn::Add(sum, hn::Add(state[2][k], state[3][k]));
      part[k] = across<T>(sum);
    }
    return part;
  }
  /// Puts right those of a part's sums that are not finite.
  template <class Add>
  [[gnu::noinline, gnu::cold]] static void sum_in_f64(std::int64_t begin, std::int64_t end, const Add& add,
                                                      std::array<double, kSums>& part) {
    std::array<double, kSums> wide{};
    for (std::int64_t at = begin; at < end; at += kVecLanes<T>) {
      State terms;
      terms.fill(zeros<T>());
      add_rest(terms, at, end - at < kVecLanes<T> ? end : at + kVecLanes<T>, add);
      for (std::size_t k = 0; k < kSums; ++k) wide[k] += across<T>(terms[k]);
    }
    for (std::size_t k = 0; k < kSums; ++k) {
      if (!std::isfinite(part[k])) part[k] = wide[k];
    }
  }

  std::array<double, kSums> totals_{};
};

/// Σ of what `add(sum, x[i], …)` adds to a sum.
template <class T, class Add, class... In>
HWY_INLINE double sum_of(std::int64_t count, const Add& add, const In*... x) {
  Sums<T, 1> sums;
  sums.run(count,
           [&](auto& state, std::int64_t i, auto at) TAPECACHE_INLINE { state[0] = add(state[0], at.load(x + i)...); });
  return sums.total();
}

/// Two sums at once: `add(first, second, x[i], …)` adds to both.
template <class T, class Add, class... In>
HWY_INLINE std::pair<double, double> two_sums_of(std::int64_t count, const Add& add, const In*... x) {
  Sums<T, 2> sums;
  sums.run(count,
           [&](auto& state, std::int64_t i, auto at) TAPECACHE_INLINE { add(state[0], state[1], at.load(x + i)...); });
  return {sums.total(0), sums.total(1)};
}

template <class T>
double row_sum(const T* x, std::int64_t n) {
  return sum_of<T>(
      n, [](auto sum, auto v) TAPECACHE_INLINE { return hn::Add(sum, v); }, x);
}

template <class T, class U>
double row_dot(const T* x, const U* y, std::int64_t n) {
  return sum_of<ComputedType<T>>(
      n, [](auto sum, auto v, auto w) TAPECACHE_INLINE { return hn::MulAdd(v, w, sum); }, x, y);
}

/// The same with products in f64.
template <class T>
double wide_dot(const T* x, const T* y, std::int64_t n) {
  Sums<double, 1> sums;
  sums.run(n, [=](auto& state, std::int64_t i, auto at)
                  TAPECACHE_INLINE { state[0] = hn::MulAdd(at.load_double(x + i), at.load_double(y + i), state[0]); });
  return sums.total();
}

/// As many f64 sums as there are columns, and as `add_rows` may write.
template <class T>
constexpr std::int64_t column_sums_size(std::int64_t cols) {
  return (cols + kVecLanes<T> - 1) / kVecLanes<T> * kVecLanes<T>;
}

HWY_INLINE void add_wide(const Vec<double>& terms, double* sums) { store(hn::Add(load(sums), terms), sums); }
HWY_INLINE void add_wide(const Vec<float>& terms, double* sums) {
  HWY_ALIGN float lanes[kVecLanes<float>];
  hn::Store(terms, Tag<float>(), lanes);
  for (std::int64_t i = 0; i < kVecLanes<float>; i += kVecLanes<double>) add_wide(load_double(lanes + i), sums + i);
}

/// Adds `terms(row)` of each row to f64 sums, in those lanes where `sum`, theirs in f32, is not finite, and elsewhere
/// that.
template <class Terms>
[[gnu::noinline, gnu::cold]] void add_each_wide(std::int64_t begin, std::int64_t end, const Vec<float>& sum,
                                                const Terms& terms, double* sums) {
  constexpr std::int64_t kLanes = kVecLanes<float>;
  float lanes[kLanes];
  double wide[kLanes] = {};
  for (std::int64_t row = begin; row < end; ++row) {
    store<float>(terms(row), lanes);
    for (std::int64_t i = 0; i < kLanes; ++i) wide[i] += static_cast<double>(lanes[i]);
  }
  store<float>(sum, lanes);
  for (std::int64_t i = 0; i < kLanes; ++i)
    sums[i] += std::isfinite(lanes[i]) ? static_cast<double>(lanes[i]) : wide[i];
}

/// Whether those of the first `count` lanes that there are hold finite numbers.
HWY_INLINE bool all_finite(const Vec<float>& x, std::int64_t count) {
  const Tag<float> tag;
  if (hn::AllTrue(tag, hn::IsFinite(x))) [[likely]]
    return true;
  return count < kVecLanes<float> && hn::AllTrue(tag, hn::Or(hn::IsFinite(x), hn::Not(first_lanes<float>(count))));
}

/// Adds rows begin … end to f64 sums of each column, which have room for `column_sums_size`. `terms(row, j, at)` gives
/// kSums vectors, at column j of a row, of which the k-th belongs to sums[k].
template <class T, std::size_t kSums, class Terms>
HWY_INLINE void add_rows(std::int64_t begin, std::int64_t end, std::int64_t cols,
                         const std::array<double*, kSums>& sums, const Terms& terms) {
  constexpr std::int64_t kRows = 8;  // added in T
  for (std::int64_t row = begin; row < end; row += kRows) {
    const std::int64_t last = end - row < kRows ? end : row + kRows;
    for_each_vec<T>(cols, [&](std::int64_t j, auto at) TAPECACHE_INLINE {
      std::array<Vec<T>, kSums> sum = terms(row, j, at);
      for (std::int64_t i = row + 1; i < last; ++i) {
        const std::array<Vec<T>, kSums> more = terms(i, j, at);
        for (std::size_t k = 0; k < kSums; ++k) sum[k] = hn::Add(sum[k], more[k]);
      }
      for (std::size_t k = 0; k < kSums; ++k) {
        if constexpr (std::is_same_v<T, float>) {
          if (!all_finite(sum[k], cols - j)) [[unlikely]] {
            add_each_wide(
                row, last, sum[k], [&](std::int64_t i) { return terms(i, j, at)[k]; }, sums[k] + j);
            continue;
          }
        }
        add_wide(sum[k], sums[k] + j);
      }
    });
  }
}

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT
