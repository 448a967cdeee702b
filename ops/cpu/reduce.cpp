#include <array>
#include <cmath>
#include <vector>

#include "tapecache/core/element.h"
#include "tapecache/ops/cpu/cpu_kernels.h"
#include "tapecache/ops/cpu/row_math.h"

namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT {

namespace {

constexpr std::int64_t kAxisBlock = 512;  // of a long sum: blocks are summed alone, then in order
constexpr std::int64_t kWork = 16384;

/// Adds positions [begin, end) of the axis, which are `pitch` elements apart, to `to` [inner].
template <class T, class In>
void sum_block(const In* x, std::int64_t begin, std::int64_t end, std::int64_t inner, std::int64_t pitch, double* to) {
  if (inner == 1 && pitch == 1) {
    *to += sum_of<T>(
        end - begin, [](auto sum, auto v) TAPECACHE_INLINE { return hn::Add(sum, v); }, x + begin);
    return;
  }
  add_rows<T, 1>(begin, end, inner, {to}, [=](std::int64_t k, std::int64_t j, auto at) TAPECACHE_INLINE {
    return std::array{at.load(x + k * pitch + j)};
  });
}

template <class T, class In>
void sum_axis(std::int64_t outer, std::int64_t axis, std::int64_t inner, std::int64_t pitch, double factor, const In* x,
              T* y, Mode mode) {
  const std::int64_t blocks = std::max<std::int64_t>(1, (axis + kAxisBlock - 1) / kAxisBlock);
  const std::int64_t size = inner == 1 && pitch == 1 ? 1 : column_sums_size<T>(inner);
  std::vector<double> partial(static_cast<std::size_t>(outer * blocks * size));
  parallel_for(outer * blocks, block_for(std::min(axis, kAxisBlock) * inner, kWork),
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t i = begin; i < end; ++i) {
                   const std::int64_t first = i % blocks * kAxisBlock;
                   sum_block<T>(x + i / blocks * axis * pitch, first, std::min(axis, first + kAxisBlock), inner, pitch,
                                partial.data() + i * size);
                 }
               });
  parallel_for(outer, block_for(blocks * inner, kWork), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      double* total = partial.data() + i * blocks * size;
      for (std::int64_t block = 1; block < blocks; ++block) {
        map(
            inner, total, [](auto v, auto w) TAPECACHE_INLINE { return hn::Add(v, w); }, total, total + block * size);
      }
      for (std::int64_t j = 0; j < inner; ++j) put(y[i * inner + j], static_cast<T>(total[j] * factor), mode);
    }
  });
}

/// Position of the first maximum; a NaN counts as larger than any number.
template <class T>
std::int64_t first_maximum(const T* x, std::int64_t n) {
  const T largest = row_max(x, n);
  // NaN where an element is not finite.
  const double sum = sum_of<T>(
      n, [](auto zero, auto v) TAPECACHE_INLINE { return hn::Add(zero, hn::Sub(v, v)); }, x);
  std::int64_t nan = n;
  if (sum != 0) nan = std::find_if(x, x + n, [](T value) { return value != value; }) - x;
  return nan < n ? nan : std::find(x, x + n, largest) - x;
}

/// Columns of x [axis, inner] that are reduced side by side, with what is known of each.
constexpr std::int64_t kColumns = 64;
template <class T>
struct Columns {
  const T* x;
  std::int64_t axis, inner, count;
  T largest[kColumns];
  std::int64_t best[kColumns];

  /// Finds the maxima, the first of several; a NaN counts as larger than any number.
  void find_maxima() {
    for (std::int64_t j = 0; j < count; ++j) {
      largest[j] = axis == 0 ? -std::numeric_limits<T>::infinity() : x[j];
      best[j] = 0;
    }
    for (std::int64_t k = 1; k < axis; ++k) {
      const T* row = x + k * inner;
      for (std::int64_t j = 0; j < count; ++j) {
        const T value = row[j], old = largest[j];
        const bool larger = (value > old) | ((value != value) & (old == old));
        largest[j] = larger ? value : old;
        best[j] = larger ? k : best[j];
      }
    }
  }

  /// log Σ exp of each column, as row_logsumexp has it.
  void logsumexp(T* result) const {
    T shift[kColumns], sum[kColumns];
    for (std::int64_t j = 0; j < count; ++j) {
      shift[j] = std::isinf(largest[j]) ? T{0} : largest[j];
      sum[j] = T{0};
    }
    for (std::int64_t k = 0; k < axis; ++k) {
      map_to(
          Mode::kAccumulate, count, sum, [](auto v, auto s) TAPECACHE_INLINE { return exponential(hn::Sub(v, s)); },
          x + k * inner, shift);
    }
    for (std::int64_t j = 0; j < count; ++j) {
      result[j] = std::isinf(largest[j]) && !std::isnan(sum[j]) ? largest[j] : shift[j] + std::log(sum[j]);
    }
  }
};

/// A power of two that brings a line whose largest magnitude this is near 1, so that squares neither overflow nor
/// vanish; 1 where all is 0 or the largest is not finite.
template <class T>
T scale_for_squares(T largest) {
  constexpr int kMax = std::numeric_limits<T>::max_exponent - 8;
  if (largest == 0 || !std::isfinite(largest)) return T{1};
  return std::ldexp(T{1}, std::clamp(-std::ilogb(largest), -kMax, kMax));
}

/// √Σ x²
template <class T>
T row_norm(const T* x, std::int64_t n) {
  Vec<T> magnitudes = zeros<T>();
  for_each_vec<T>(n, [&](std::int64_t i, auto at)
                         TAPECACHE_INLINE { magnitudes = larger_of(magnitudes, hn::Abs(at.load(x + i))); });
  HWY_ALIGN T lanes[kVecLanes<T>];
  hn::Store(magnitudes, Tag<T>(), lanes);
  const T scale = scale_for_squares(*std::max_element(lanes, lanes + kVecLanes<T>));
  const double squares = sum_of<T>(
      n,
      [s = set(scale)](auto sum, auto v) TAPECACHE_INLINE {
        const auto near_one = hn::Mul(v, s);
        return hn::MulAdd(near_one, near_one, sum);
      },
      x);
  return static_cast<T>(std::sqrt(squares) / static_cast<double>(scale));
}

/// The same of columns side by side.
template <class T>
void column_norms(const Columns<T>& columns, T* result) {
  T largest[kColumns] = {}, scale[kColumns];
  double squares[column_sums_size<T>(kColumns)] = {};
  for (std::int64_t k = 0; k < columns.axis; ++k) {
    map(
        columns.count, largest, [](auto m, auto v) TAPECACHE_INLINE { return larger_of(m, hn::Abs(v)); }, largest,
        columns.x + k * columns.inner);
  }
  std::transform(largest, largest + columns.count, scale, scale_for_squares<T>);
  add_rows<T, 1>(0, columns.axis, columns.count, {squares},
                 [&](std::int64_t k, std::int64_t j, auto at) TAPECACHE_INLINE {
                   const auto near_one = hn::Mul(at.load(columns.x + k * columns.inner + j), at.load(scale + j));
                   return std::array{hn::Mul(near_one, near_one)};
                 });
  for (std::int64_t j = 0; j < columns.count; ++j) {
    result[j] = static_cast<T>(std::sqrt(squares[j]) / static_cast<double>(scale[j]));
  }
}

/// Calls body(columns, offset in the result, offset in x) for groups of neighbouring columns, in parallel.
template <class T, class Body>
void for_each_group(std::int64_t outer, std::int64_t axis, std::int64_t inner, const T* x, const Body& body) {
  const std::int64_t groups = (inner + kColumns - 1) / kColumns;
  parallel_for(outer * groups, block_for(axis * std::min(inner, kColumns), kWork),
               [&](std::int64_t begin, std::int64_t end) {
                 Columns<T> columns;
                 columns.axis = axis;
                 columns.inner = inner;
                 for (std::int64_t i = begin; i < end; ++i) {
                   const std::int64_t first = i % groups * kColumns, base = i / groups * axis * inner + first;
                   columns.x = x + base;
                   columns.count = std::min(kColumns, inner - first);
                   body(columns, i / groups * inner + first, base);
                 }
               });
}

/// Calls body(row) for rows of `length` elements, in parallel.
template <class Body>
void for_each_row(std::int64_t rows, std::int64_t length, const Body& body) {
  parallel_for(rows, block_for(length, kWork), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) body(row);
  });
}

/// dx [outer, axis, inner] from value(place in x, at, of_y): `at` reads x there, and `of_y(y)` what stands for it in an
/// array of y's shape.
template <class T, class Value>
void spread(std::int64_t outer, std::int64_t axis, std::int64_t inner, T* dx, Mode mode, const Value& value) {
  const auto fill = [&](std::int64_t to, std::int64_t count, const auto& of_y) {
    for_each_vec<T>(count, [&](std::int64_t j, auto at) TAPECACHE_INLINE {
      auto v = value(to + j, at, [&](const T* y) TAPECACHE_INLINE { return of_y(y, j, at); });
      if (mode == Mode::kAccumulate) v = hn::Add(at.load(dx + to + j), v);
      at.store(v, dx + to + j);
    });
  };
  if (inner == 1) {
    const std::int64_t pieces = std::max<std::int64_t>(1, (axis + kWork - 1) / kWork);
    for_each_row(outer * pieces, std::min(axis, kWork), [&](std::int64_t i) {
      const std::int64_t row = i / pieces, first = i % pieces * kWork;
      fill(row * axis + first, std::min(kWork, axis - first),
           [=](const T* y, std::int64_t, auto) TAPECACHE_INLINE { return set(y[row]); });
    });
  } else {
    for_each_row(outer * axis, inner, [&](std::int64_t row) {
      fill(row * inner, inner,
           [=](const T* y, std::int64_t j, auto at) TAPECACHE_INLINE { return at.load(y + row / axis * inner + j); });
    });
  }
}

template <class T>
void reduce(ReduceOp op, std::int64_t outer, std::int64_t axis, std::int64_t inner, const T* x, T* y, Mode mode) {
  switch (op) {
    case ReduceOp::kSum:
      return sum_axis(outer, axis, inner, inner, 1, x, y, mode);
    case ReduceOp::kMean:
      return sum_axis(outer, axis, inner, inner, 1 / static_cast<double>(axis), x, y, mode);
    case ReduceOp::kMax:
      if (inner == 1) {
        return for_each_row(outer, axis, [=](std::int64_t i) {
          const T* row = x + i * axis;
          put(y[i], axis == 0 ? -std::numeric_limits<T>::infinity() : row[first_maximum(row, axis)], mode);
        });
      }
      return for_each_group(outer, axis, inner, x, [=](Columns<T>& columns, std::int64_t to, std::int64_t) {
        columns.find_maxima();
        for (std::int64_t j = 0; j < columns.count; ++j) put(y[to + j], columns.largest[j], mode);
      });
    case ReduceOp::kLogSumExp:
      if (inner == 1) {
        return for_each_row(outer, axis, [=](std::int64_t i) { put(y[i], row_logsumexp(x + i * axis, axis), mode); });
      }
      return for_each_group(outer, axis, inner, x, [=](Columns<T>& columns, std::int64_t to, std::int64_t) {
        T result[kColumns];
        columns.find_maxima();
        columns.logsumexp(result);
        for (std::int64_t j = 0; j < columns.count; ++j) put(y[to + j], result[j], mode);
      });
    case ReduceOp::kNorm:
      if (inner == 1) {
        return for_each_row(outer, axis, [=](std::int64_t i) { put(y[i], row_norm(x + i * axis, axis), mode); });
      }
      return for_each_group(outer, axis, inner, x, [=](const Columns<T>& columns, std::int64_t to, std::int64_t) {
        T result[kColumns];
        column_norms(columns, result);
        for (std::int64_t j = 0; j < columns.count; ++j) put(y[to + j], result[j], mode);
      });
  }
}

template <class T>
void reduce_backward(ReduceOp op, std::int64_t outer, std::int64_t axis, std::int64_t inner, const T* x, const T* y,
                     const T* dy, T* dx, Mode mode) {
  if (axis == 0) return;
  switch (op) {
    case ReduceOp::kSum:
      return spread(outer, axis, inner, dx, mode,
                    [=](std::int64_t, auto, const auto& of_y) TAPECACHE_INLINE { return of_y(dy); });
    case ReduceOp::kMean:
      return spread(outer, axis, inner, dx, mode,
                    [=, factor = set(T{1} / static_cast<T>(axis))](std::int64_t, auto, const auto& of_y)
                        TAPECACHE_INLINE { return hn::Mul(of_y(dy), factor); });
    case ReduceOp::kLogSumExp:  // dy softmax(x)
      return spread(outer, axis, inner, dx, mode, [=](std::int64_t i, auto at, const auto& of_y) TAPECACHE_INLINE {
        return hn::Mul(of_y(dy), exponential(hn::Sub(at.load(x + i), of_y(y))));
      });
    case ReduceOp::kNorm:  // dy x / y, and 0 where y is
      return spread(outer, axis, inner, dx, mode, [=](std::int64_t i, auto at, const auto& of_y) TAPECACHE_INLINE {
        const auto length = of_y(y);
        const auto slope = hn::Mul(of_y(dy), hn::Div(at.load(x + i), length));
        return hn::IfThenZeroElse(hn::Eq(length, zeros<T>()), slope);
      });
    case ReduceOp::kMax:
      return for_each_group(outer, axis, inner, x, [=](Columns<T>& columns, std::int64_t from, std::int64_t to) {
        if (inner == 1) columns.best[0] = first_maximum(columns.x, axis);
        else columns.find_maxima();
        if (mode == Mode::kWrite) {
          for (std::int64_t k = 0; k < axis; ++k) std::fill_n(dx + to + k * inner, columns.count, T{0});
        }
        for (std::int64_t j = 0; j < columns.count; ++j) dx[to + columns.best[j] * inner + j] += dy[from + j];
      });
  }
}

template <class T>
void sum_rows(std::int64_t rows, std::int64_t cols, std::int64_t pitch, const T* x, ComputedType<T>* y, Mode mode) {
  sum_axis(1, rows, cols, pitch, 1, x, y, mode);
}

template <class Low>
void low_round_and_sum_rows(std::int64_t rows, std::int64_t cols, const float* x, Low* y, float* sums, Mode mode) {
  Provided<UnaryKernels<Low>>::kernels.round(rows * cols, x, y);
  sum_rows(rows, cols, cols, x, sums, mode);
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

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT
