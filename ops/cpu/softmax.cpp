#include "tapecache/ops/cpu/cpu_kernels.h"
#include "tapecache/ops/cpu/row_math.h"

namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT {

namespace {

template <class Body>
void for_each_row(std::int64_t rows, std::int64_t cols, const Body& body) {
  parallel_for(rows, block_for(cols * 4), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) body(row);
  });
}

/// exp(x - shift) / Σ over a row, in y, which may be x; all 0 where the sum is 0.
template <class T>
void normalize_exponentials(const T* x, T shift, std::int64_t n, T* y) {
  map(
      n, y, [s = set(shift)](auto v) TAPECACHE_INLINE { return exponential(hn::Sub(v, s)); }, x);
  const double sum = row_sum(y, n);
  const Vec<T> factor = set(sum == 0 ? T{0} : static_cast<T>(1 / sum));
  map(
      n, y, [=](auto v) TAPECACHE_INLINE { return hn::Mul(v, factor); }, y);
}

std::int64_t mask_offset(const Broadcast& layout, std::int64_t row) {
  std::int64_t offset = 0;
  for (std::int64_t i = layout.rank - 2; i >= 0; --i) {
    const auto axis = static_cast<std::size_t>(i);
    offset += row % layout.sizes[axis] * layout.b[axis];
    row /= layout.sizes[axis];
  }
  return offset;
}

template <class T>
void softmax(std::int64_t rows, std::int64_t cols, const T* x, const bool* mask, const Broadcast& layout, T* y) {
  if (!mask) {
    for_each_row(rows, cols, [=](std::int64_t row) {
      const T* from = x + row * cols;
      normalize_exponentials(from, row_max(from, cols), cols, y + row * cols);
    });
    return;
  }
  const std::int64_t step = layout.b[static_cast<std::size_t>(layout.rank - 1)];
  for_each_row(rows, cols, [&](std::int64_t row) {
    const T* from = x + row * cols;
    T* to = y + row * cols;
    const bool* allowed = mask + mask_offset(layout, row);
    for (std::int64_t i = 0; i < cols; ++i) to[i] = allowed[i * step] ? from[i] : kNothing<T>;
    const T largest = row_max(to, cols);
    // A row of -Inf alone has nothing allowed in it (or nothing likely): a shift of 0 leaves its exponentials 0.
    normalize_exponentials(to, largest == kNothing<T> ? T{0} : largest, cols, to);
  });
}

template <class T>
void softmax_backward(std::int64_t rows, std::int64_t cols, const T* y, const T* dy, T* dx, Mode mode) {
  for_each_row(rows, cols, [=](std::int64_t row) {
    const T *p = y + row * cols, *g = dy + row * cols;
    const Vec<T> dot = set(static_cast<T>(row_dot(p, g, cols)));
    map_to(
        mode, cols, dx + row * cols, [=](auto v, auto w) TAPECACHE_INLINE { return hn::Mul(v, hn::Sub(w, dot)); }, p,
        g);
  });
}

template <class T>
void log_softmax(std::int64_t rows, std::int64_t cols, const T* x, T* y) {
  for_each_row(rows, cols, [=](std::int64_t row) {
    const LogSumExp<T> normalizer = row_logsumexp_parts(x + row * cols, cols);
    const Vec<T> shift = set(normalizer.shift), rest = set(normalizer.rest);
    map(
        cols, y + row * cols, [=](auto v) TAPECACHE_INLINE { return hn::Sub(hn::Sub(v, shift), rest); },
        x + row * cols);
  });
}

template <class T>
void log_softmax_backward(std::int64_t rows, std::int64_t cols, const T* y, const T* dy, T* dx, Mode mode) {
  for_each_row(rows, cols, [=](std::int64_t row) {
    const T *log_p = y + row * cols, *g = dy + row * cols;
    const Vec<T> sum = set(static_cast<T>(row_sum(g, cols)));
    map_to(
        mode, cols, dx + row * cols,
        [=](auto v, auto w) TAPECACHE_INLINE { return hn::NegMulAdd(exponential(v), sum, w); }, log_p, g);
  });
}

template <class T>
constexpr SoftmaxKernels<T> kSoftmax{
    .softmax = softmax<T>,
    .softmax_backward = softmax_backward<T>,
    .log_softmax = log_softmax<T>,
    .log_softmax_backward = log_softmax_backward<T>,
};

}  // namespace

template <>
const SoftmaxKernels<float> Provided<SoftmaxKernels<float>>::kernels = kSoftmax<float>;
template <>
const SoftmaxKernels<double> Provided<SoftmaxKernels<double>>::kernels = kSoftmax<double>;

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT
