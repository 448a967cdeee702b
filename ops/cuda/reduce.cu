#include <cmath>
#include <limits>

#include "tapecache/core/element.h"
#include "tapecache/ops/cuda/cuda_kernels.h"
#include "tapecache/ops/cuda/packs.cuh"
#include "tapecache/ops/cuda/sum_terms.cuh"

namespace tapecache::kernels::cuda {

namespace {

/// Where element k of line i of x [outer, axis, inner] is; there are outer · inner lines.
struct Lines {
  std::int64_t count, axis, inner;

  Lines(std::int64_t outer, std::int64_t axis_size, std::int64_t inner_size)
      : count(outer * inner_size), axis(axis_size), inner(inner_size) {}
  __device__ std::int64_t at(std::int64_t i, std::int64_t k) const {
    return inner == 1 ? i * axis + k : (i / inner * axis + k) * inner + i % inner;
  }
};

/// The block takes one line after another together. For lines of adjacent elements.
struct ByBlock {
  static Grid grid(const Lines& lines) { return grid_of_rows(lines.count); }
  __device__ static std::int64_t first_line() { return blockIdx.x; }
  __device__ static std::int64_t lines() { return gridDim.x; }
  __device__ static std::int64_t first() { return threadIdx.x; }
  __device__ static std::int64_t step() { return blockDim.x; }
  template <class T, class Combine>
  __device__ static T reduce(T value, Combine combine) {
    return block_reduce(value, combine);
  }
};

/// Each thread takes a line of its own, beside its neighbour's.
struct ByThread {
  static Grid grid(const Lines& lines) { return grid_for(lines.count); }
  __device__ static std::int64_t first_line() { return thread_index(); }
  __device__ static std::int64_t lines() { return thread_count(); }
  __device__ static std::int64_t first() { return 0; }
  __device__ static std::int64_t step() { return 1; }
  template <class T, class Combine>
  __device__ static T reduce(T value, Combine) {
    return value;
  }
};

template <class F>
void with_threads(const Lines& lines, const F& f) {
  if (lines.inner == 1) f(ByBlock{});
  else f(ByThread{});
}

template <class T>
struct Element {
  Lines lines;
  const T* x;
  __device__ T operator()(std::int64_t i, std::int64_t k) const { return x[lines.at(i, k)]; }
};

/// The largest element of line i; a NaN counts as larger than any number.
template <class T, class By>
__device__ T maximum(const Lines& lines, std::int64_t i, const T* x) {
  T largest = -std::numeric_limits<T>::infinity();
  for (std::int64_t k = By::first(); k < lines.axis; k += By::step()) largest = Maximum{}(largest, x[lines.at(i, k)]);
  return By::reduce(largest, Maximum{});
}

template <class T, class By>
__global__ void max_kernel(Lines lines, const T* x, T* y, Mode mode) {
  for (std::int64_t i = By::first_line(); i < lines.count; i += By::lines()) {
    const T largest = maximum<T, By>(lines, i, x);
    if (By::first() == 0) put(y[i], largest, mode);
  }
}

template <class T, class By>
__global__ void max_backward_kernel(Lines lines, const T* x, const T* dy, T* dx, Mode mode) {
  for (std::int64_t i = By::first_line(); i < lines.count; i += By::lines()) {
    const T largest = maximum<T, By>(lines, i, x);
    std::int64_t best = lines.axis;
    for (std::int64_t k = By::first(); k < lines.axis && best == lines.axis; k += By::step()) {
      const T value = x[lines.at(i, k)];
      if (value == largest || (value != value && largest != largest)) best = k;
    }
    best = By::reduce(best, Minimum{});
    for (std::int64_t k = By::first(); k < lines.axis; k += By::step()) {
      put(dx[lines.at(i, k)], k == best ? dy[i] : T{0}, mode);
    }
  }
}

/// ±Inf where that is the maximum, NaN where the line holds one.
template <class T, class By>
__global__ void logsumexp_kernel(Lines lines, const T* x, T* y, Mode mode) {
  for (std::int64_t i = By::first_line(); i < lines.count; i += By::lines()) {
    const T largest = maximum<T, By>(lines, i, x), shift = std::isinf(largest) ? T{0} : largest;
    const auto own = sum_in_steps<T>(By::first(), lines.axis, By::step(),
                                     [&](std::int64_t k) { return std::exp(x[lines.at(i, k)] - shift); });
    const T sum = static_cast<T>(By::reduce(own, Sum{}));
    const T value = std::isinf(largest) && !std::isnan(sum) ? largest : shift + std::log(sum);
    if (By::first() == 0) put(y[i], value, mode);
  }
}

/// √Σ x², of elements that a power of two brings near 1, so that squares neither overflow nor vanish.
template <class T, class By>
__global__ void norm_kernel(Lines lines, const T* x, T* y, Mode mode) {
  constexpr int kMax = std::numeric_limits<T>::max_exponent - 8;
  for (std::int64_t i = By::first_line(); i < lines.count; i += By::lines()) {
    T largest{0};
    for (std::int64_t k = By::first(); k < lines.axis; k += By::step()) {
      largest = Maximum{}(largest, static_cast<T>(std::fabs(x[lines.at(i, k)])));
    }
    largest = By::reduce(largest, Maximum{});
    const bool as_it_is = largest == T{0} || !std::isfinite(largest);
    const int exponent = as_it_is ? 0 : -std::ilogb(largest);
    const T scale = std::ldexp(T{1}, exponent > kMax ? kMax : exponent < -kMax ? -kMax : exponent);
    const auto own = sum_in_steps<T>(By::first(), lines.axis, By::step(), [&](std::int64_t k) {
      const T near_one = x[lines.at(i, k)] * scale;
      return near_one * near_one;
    });
    const double length = std::sqrt(static_cast<double>(By::reduce(own, Sum{}))) / static_cast<double>(scale);
    if (By::first() == 0) put(y[i], static_cast<T>(length), mode);
  }
}

/// dx[at] = slope(at, i, dy[i]) of each element, which is one of line i.
template <class T, class Slope>
__global__ void spread_kernel(std::int64_t n, Lines lines, Slope slope, const T* dy, T* dx, Mode mode) {
  for (std::int64_t at = thread_index(); at < n; at += thread_count()) {
    const std::int64_t i = at / lines.inner / lines.axis * lines.inner + at % lines.inner;
    put(dx[at], slope(at, i, dy[i]), mode);
  }
}

template <class T>
struct Factor {
  T factor;
  __device__ T operator()(std::int64_t, std::int64_t, T g) const { return g * factor; }
};

/// Of logsumexp: the softmax.
template <class T>
struct Softmax {
  const T *x, *y;
  __device__ T operator()(std::int64_t at, std::int64_t i, T g) const { return g * std::exp(x[at] - y[i]); }
};

/// Of a norm: x / y, and 0 where y is.
template <class T>
struct Direction {
  const T *x, *y;
  __device__ T operator()(std::int64_t at, std::int64_t i, T g) const {
    return y[i] == T{0} ? T{0} : g * (x[at] / y[i]);
  }
};

template <class T>
struct ElementOfColumn {
  std::int64_t pitch;
  const T* x;
  __device__ ComputedType<T> operator()(std::int64_t column, std::int64_t row) const {
    return static_cast<ComputedType<T>>(x[row * pitch + column]);
  }
};

/// Neighbouring columns that are summed together, each by itself. One number alone stands for all.
template <int kCount, class T = float>
struct alignas(kCount * sizeof(T)) Columns {
  T x[kCount];

  Columns() = default;
  __host__ __device__ constexpr Columns(T all) {
    for (T& value : x) value = all;
  }
  template <class U>
  __device__ explicit Columns(const Columns<kCount, U>& b) {
    for (int i = 0; i < kCount; ++i) x[i] = static_cast<T>(b.x[i]);
  }
  __device__ Columns& operator+=(const Columns& b) {
    for (int i = 0; i < kCount; ++i) x[i] += b.x[i];
    return *this;
  }
  friend __device__ bool all_finite(const Columns& columns) {
    bool finite = true;
    for (const T& value : columns.x) finite = finite && std::isfinite(value);
    return finite;
  }
  friend __device__ Columns operator+(Columns a, const Columns& b) { return a += b; }
  friend __device__ Columns operator*(Columns a, const Columns& b) {
    for (int i = 0; i < kCount; ++i) a.x[i] *= b.x[i];
    return a;
  }
};

template <int kCount>
__device__ Columns<kCount, double> finite_or(const Columns<kCount>& x, Columns<kCount, double> otherwise) {
  for (int i = 0; i < kCount; ++i) {
    if (std::isfinite(x.x[i])) otherwise.x[i] = static_cast<double>(x.x[i]);
  }
  return otherwise;
}

/// A row's elements of `kCount` columns from kCount · i on, which are written as elements of Low too.
template <class Low, int kCount>
struct RoundedElements {
  std::int64_t cols;
  const float* x;
  Low* y;
  __device__ Columns<kCount> operator()(std::int64_t i, std::int64_t row) const {
    const std::int64_t at = row * cols + i * kCount;
    const auto values = read_pack<kCount>(x + at);
    write_rounded(y + at, values.x);
    Columns<kCount> columns;
    for (int k = 0; k < kCount; ++k) columns.x[k] = values.x[k];
    return columns;
  }
};

}  // namespace

template <int kCount>
struct LongSum<Columns<kCount>> {
  using Type = Columns<kCount, double>;
};

namespace {

template <class T>
void reduce(ReduceOp op, std::int64_t outer, std::int64_t axis, std::int64_t inner, const T* x, T* y, Mode mode) {
  const Lines lines(outer, axis, inner);
  if (op == ReduceOp::kSum || op == ReduceOp::kMean) {
    const T factor = op == ReduceOp::kSum ? T{1} : T{1} / static_cast<T>(axis);
    return sum_terms(lines.count, axis, inner == 1 ? Adjacent::kTerms : Adjacent::kSums, Element<T>{lines, x}, factor,
                     y, mode);
  }
  with_threads(lines, [&]<class By>(By) {
    launch(op == ReduceOp::kMax    ? max_kernel<T, By>
           : op == ReduceOp::kNorm ? norm_kernel<T, By>
                                   : logsumexp_kernel<T, By>,
           By::grid(lines), lines, x, y, mode);
  });
}

template <class T>
void reduce_backward(ReduceOp op, std::int64_t outer, std::int64_t axis, std::int64_t inner, const T* x, const T* y,
                     const T* dy, T* dx, Mode mode) {
  const Lines lines(outer, axis, inner);
  if (op == ReduceOp::kMax) {
    return with_threads(
        lines, [&]<class By>(By) { launch(max_backward_kernel<T, By>, By::grid(lines), lines, x, dy, dx, mode); });
  }
  const auto spread = [&]<class Slope>(const Slope& slope) {
    const std::int64_t n = lines.count * axis;
    launch(spread_kernel<T, Slope>, grid_for(n), n, lines, slope, dy, dx, mode);
  };
  if (op == ReduceOp::kLogSumExp) return spread(Softmax<T>{x, y});
  if (op == ReduceOp::kNorm) return spread(Direction<T>{x, y});
  spread(Factor<T>{op == ReduceOp::kMean ? T{1} / static_cast<T>(axis) : T{1}});
}

template <class T>
void sum_rows(std::int64_t rows, std::int64_t cols, std::int64_t pitch, const T* x, ComputedType<T>* y, Mode mode) {
  sum_terms<Adjacent::kSums>(cols, rows, ElementOfColumn<T>{pitch, x}, ComputedType<T>{1}, y, mode);
}

template <class Low>
void low_round_and_sum_rows(std::int64_t rows, std::int64_t cols, const float* x, Low* y, float* sums, Mode mode) {
  constexpr int kMany = 4;
  const auto with = [&]<int kCount>() {
    using T = Columns<kCount>;
    sum_terms<Adjacent::kSums>(cols / kCount, rows, RoundedElements<Low, kCount>{cols, x, y}, T(1),
                               reinterpret_cast<T*>(sums), mode);
  };
  const bool aligned = cols % kMany == 0 && are_aligned(kPackBytes, x, y, sums);
  aligned ? with.template operator()<kMany>() : with.template operator()<1>();
}

template <class T>
constexpr ReduceKernels<T> kReduce{
    .reduce = reduce<T>,
    .reduce_backward = reduce_backward<T>,
    .sum_rows = sum_rows<T>,
};
template <class Low>
requires kLowPrecision<Low>
constexpr ReduceKernels<Low> kReduce<Low>{
    .round_and_sum_rows = low_round_and_sum_rows<Low>,
    .sum_rows = sum_rows<Low>,
};

}  // namespace

template <>
const ReduceKernels<float> Provided<ReduceKernels<float>>::kernels = kReduce<float>;
template <>
const ReduceKernels<double> Provided<ReduceKernels<double>>::kernels = kReduce<double>;
template <>
const ReduceKernels<BFloat16> Provided<ReduceKernels<BFloat16>>::kernels = kReduce<BFloat16>;
template <>
const ReduceKernels<Float16> Provided<ReduceKernels<Float16>>::kernels = kReduce<Float16>;

}  // namespace tapecache::kernels::cuda
