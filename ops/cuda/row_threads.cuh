#pragma once

#include <limits>
#include <type_traits>

#include "tapecache/ops/cuda/launch.cuh"
#include "tapecache/ops/cuda/pair.cuh"

/// Kernels over the rows of an array: a warp takes a narrow row, a block a wide one. Threads keep their elements of it
/// in registers, so that it is read once; rows too wide for that are read anew.
namespace tapecache::kernels::cuda {

constexpr unsigned kMaxRowThreads = 512;  // of a block: what kernels over rows are compiled for

/// Which rows a thread takes part in, and which elements of them are its own: thread(), thread() + threads(), … At most
/// kHeld elements, or any number where that is 0.
template <int kHeldElements>
struct WarpPerRow {
  static constexpr int kHeld = kHeldElements;
  static constexpr std::int64_t kMaxColumns = std::int64_t{kHeld} * kWarp, kRowsOfBlock = 4;
  __device__ static std::int64_t first_row() { return thread_index() / kWarp; }
  __device__ static std::int64_t row_step() { return thread_count() / kWarp; }
  static std::int64_t first_rows_of_block() { return kRowsOfBlock; }
  __device__ static unsigned thread() { return threadIdx.x % kWarp; }
  __device__ static unsigned threads() { return kWarp; }
  template <class V, class Combine>
  __device__ static V reduce(V value, Combine combine) {
    return warp_reduce(value, combine);
  }
  static Grid grid(std::int64_t rows, std::int64_t) {
    return grid_of_rows(divide_up(rows, kRowsOfBlock), kRowsOfBlock * kWarp);
  }
};

template <int kHeldElements>
struct BlockPerRow {
  static constexpr int kHeld = kHeldElements;
  static constexpr std::int64_t kMaxColumns = std::int64_t{kHeld} * kMaxRowThreads;
  __device__ static std::int64_t first_row() { return blockIdx.x; }
  __device__ static std::int64_t row_step() { return gridDim.x; }
  static std::int64_t first_rows_of_block() { return 1; }
  __device__ static unsigned thread() { return threadIdx.x; }
  __device__ static unsigned threads() { return blockDim.x; }
  template <class V, class Combine>
  __device__ static V reduce(V value, Combine combine) {
    return block_reduce(value, combine);
  }
  static Grid grid(std::int64_t rows, std::int64_t cols) {
    if constexpr (kHeld == 0) return grid_of_rows(rows, kMaxRowThreads);
    else return grid_of_rows(rows, static_cast<unsigned>(divide_up(cols, std::int64_t{kHeld} * kWarp)) * kWarp);
  }
};

/// Calls f with the By for rows of `cols` elements, and the grid.
template <class F>
void with_row_threads(std::int64_t rows, std::int64_t cols, const F& f) {
  const auto with = [&]<class By>(By by) { f(by, By::grid(rows, cols)); };
  if (cols <= WarpPerRow<4>::kMaxColumns) with(WarpPerRow<4>{});
  else if (cols <= WarpPerRow<16>::kMaxColumns) with(WarpPerRow<16>{});
  else if (cols <= BlockPerRow<8>::kMaxColumns) with(BlockPerRow<8>{});
  else with(BlockPerRow<0>{});
}

/// The elements of a row as they are.
template <class T>
struct Elements {
  const T* x;
  __device__ T operator()(std::int64_t at) const { return x[at]; }
};

/// Those of two rows.
template <class T>
struct PairedElements {
  const T *a, *b;
  __device__ Pair<T> operator()(std::int64_t at) const { return {a[at], b[at]}; }
};

/// A row as `source` gives it, element by element. All threads that share the row must sum and take maxima together.
template <class By, class Source>
class Row {
 public:
  using Value = std::invoke_result_t<Source, std::int64_t>;

  __device__ Row(std::int64_t cols, const Source& source) : cols_(cols), source_(source) {
    if constexpr (By::kHeld > 0) {
#pragma unroll
      for (int i = 0; i < By::kHeld; ++i) {
        const std::int64_t at = place(i);
        if (at < cols) held_[i] = source(at);
      }
    }
  }

  /// Calls f(i, place, value) for the i-th of the elements that this thread holds.
  template <class F>
  __device__ void each_held(const F& f) const {
#pragma unroll
    for (int i = 0; i < By::kHeld; ++i) {
      const std::int64_t at = place(i);
      if (at < cols_) f(i, at, held_[i]);
    }
  }

  /// Calls f(place, value) for this thread's elements.
  template <class F>
  __device__ void each(const F& f) const {
    if constexpr (By::kHeld > 0) {
      each_held([&](int, std::int64_t at, const Value& value) { f(at, value); });
    } else {
      for (std::int64_t at = By::thread(); at < cols_; at += By::threads()) f(at, source_(at));
    }
  }

  /// Σ f(place, value) over the row, in what no sum of its terms overflows.
  template <class F>
  __device__ auto long_sum(const F& f) const {
    using Term = std::invoke_result_t<F, std::int64_t, Value>;
    using Long = typename LongSum<Term>::Type;
    const auto sum_as = [&](auto total) {
      each([&](std::int64_t at, Value v) { total += static_cast<decltype(total)>(f(at, v)); });
      return By::reduce(total, Sum{});
    };
    if constexpr (By::kHeld == 0 || std::is_same_v<Term, Long>) {
      return sum_as(Long(0));
    } else {
      const Term total = sum_as(Term(0));
      return all_finite(total) ? static_cast<Long>(total) : finite_or(total, sum_as(Long(0)));
    }
  }
  template <class F>
  __device__ auto sum(const F& f) const {
    return static_cast<std::invoke_result_t<F, std::int64_t, Value>>(long_sum(f));
  }
  /// The mean of f(place, value), which fits what the terms fit.
  template <class F>
  __device__ auto mean(const F& f) const {
    using Term = std::invoke_result_t<F, std::int64_t, Value>;
    const auto total = long_sum(f);
    const Term in_term = static_cast<Term>(total);
    if (all_finite(in_term)) return in_term / static_cast<Term>(cols_);
    return static_cast<Term>(total / static_cast<std::remove_const_t<decltype(total)>>(cols_));
  }

  /// The largest value; a NaN counts as larger than any number.
  __device__ Value maximum() const {
    Value largest = -std::numeric_limits<Value>::infinity();
    each([&](std::int64_t, Value v) { largest = Maximum{}(largest, v); });
    return By::reduce(largest, Maximum{});
  }

  /// Where in a row the i-th of a thread's elements is.
  __device__ static std::int64_t place(int i) { return By::thread() + static_cast<unsigned>(i) * By::threads(); }

 private:
  std::int64_t cols_;
  Source source_;
  Value held_[By::kHeld > 0 ? By::kHeld : 1];
};

}  // namespace tapecache::kernels::cuda
