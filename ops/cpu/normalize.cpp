#include <array>
#include <cmath>
#include <tuple>
#include <utility>
#include <vector>

#include "tapecache/core/element.h"
#include "tapecache/ops/cpu/cpu_kernels.h"
#include "tapecache/ops/cpu/sums.h"

namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT {

namespace {

constexpr std::int64_t kRowBlock = 64;
constexpr std::int64_t kMaxBlocks = 32;  // of partial sums
constexpr std::int64_t kGroup = 8;       // rows that are in the first cache for the sums and for dx

/// Adds up the blocks' partial rows, which are `size` apart, in block order.
template <class T>
void sum_partials(const std::vector<double>& partial, std::int64_t blocks, std::int64_t size, std::int64_t cols, T* to,
                  Mode mode) {
  if (!to) return;
  for (std::int64_t i = 0; i < cols; ++i) {
    double total = 0;
    for (std::int64_t block = 0; block < blocks; ++block) total += partial[static_cast<std::size_t>(block * size + i)];
    put(to[i], static_cast<T>(total), mode);
  }
}

/// A power of two by which values whose squares overflow become ones whose squares do not.
template <class T>
inline constexpr T kDown = sizeof(T) == sizeof(float) ? T(0x1p-96) : T(0x1p-768);

/// Mean and biased variance of a row. Both are taken from the differences to a first mean, which makes good what that
/// lost in rounding (Chan et al. 1983). `read` is what is done to each element first.
template <class T, class Read>
std::pair<double, double> moments(const T* x, std::int64_t n, const Read& read) {
  const double sum = sum_of<T>(
      n, [&](auto total, auto v) TAPECACHE_INLINE { return hn::Add(total, read(v)); }, x);
  const T near_mean = static_cast<T>(sum / static_cast<double>(n));
  const auto [differences, squares] = two_sums_of<T>(
      n,
      [&, centre = set(near_mean)](auto& first, auto& second, auto v) TAPECACHE_INLINE {
        const auto d = hn::Sub(read(v), centre);
        first = hn::Add(first, d);
        second = hn::MulAdd(d, d, second);
      },
      x);
  const double shift = differences / static_cast<double>(n);
  const double variance = squares / static_cast<double>(n) - shift * shift;
  return {static_cast<double>(near_mean) + shift, variance < 0 ? 0 : variance};  // in this order a NaN stays one
}

/// Mean and 1 / √(variance + ε) of a row.
template <class T>
std::pair<T, T> mean_and_inverse_deviation(const T* x, std::int64_t n, double epsilon) {
  const auto [mean, variance] = moments(x, n, [](auto v) TAPECACHE_INLINE { return v; });
  if (std::isfinite(variance)) return {static_cast<T>(mean), static_cast<T>(1 / std::sqrt(variance + epsilon))};
  const auto down = static_cast<double>(kDown<T>);
  const auto [small_mean, small] =
      moments(x, n, [d = set(kDown<T>)](auto v) TAPECACHE_INLINE { return hn::Mul(v, d); });
  return {static_cast<T>(small_mean / down), static_cast<T>(down / std::sqrt(small + epsilon * down * down))};
}

/// Rows [begin, end); Out is T, or what y is rounded to.
template <class T, class Out>
void normalize_rows(std::int64_t begin, std::int64_t end, std::int64_t cols, double epsilon, const T* x, const T* gamma,
                    const T* beta, Out* y, T* mean, T* rstd) {
  for (std::int64_t row = begin; row < end; ++row) {
    std::tie(mean[row], rstd[row]) = mean_and_inverse_deviation(x + row * cols, cols, epsilon);
    map(
        cols, y + row * cols,
        [centre = set(mean[row]), inverse = set(rstd[row])](auto v, auto g, auto b)
            TAPECACHE_INLINE { return hn::MulAdd(hn::Mul(hn::Sub(v, centre), inverse), g, b); },
        x + row * cols, gamma, beta);
  }
}

/// l2_normalize of a row whose sum of squares overflows, by way of one that is smaller by a power of two. Returns what
/// `inverse` is for it.
template <class T>
T normalize_large_row(std::int64_t cols, T epsilon, const T* from, T* to) {
  const Vec<T> down = set(kDown<T>);
  const T length = static_cast<T>(std::sqrt(sum_of<T>(
      cols,
      [=](auto sum, auto v) TAPECACHE_INLINE {
        const auto small = hn::Mul(v, down);
        return hn::MulAdd(small, small, sum);
      },
      from)));
  const T least = epsilon * kDown<T>, divisor = length < least ? least : length;
  map(
      cols, to, [=, d = set(divisor)](auto v) TAPECACHE_INLINE { return hn::Div(hn::Mul(v, down), d); }, from);
  return (length < least ? T{-1} : T{1}) / divisor * kDown<T>;
}

/// 1 / √(mean(x²) + ε) of a row.
template <class T>
T inverse_rms(const T* x, std::int64_t n, double epsilon) {
  const double count = static_cast<double>(n), square = row_dot(x, x, n) / count;
  if (std::isfinite(square)) return static_cast<T>(1 / std::sqrt(square + epsilon));
  const auto down = static_cast<double>(kDown<T>);
  const double small = sum_of<T>(
      n,
      [d = set(kDown<T>)](auto sum, auto v) TAPECACHE_INLINE {
        const auto scaled = hn::Mul(v, d);
        return hn::MulAdd(scaled, scaled, sum);
      },
      x);
  return static_cast<T>(down / std::sqrt(small / count + epsilon * down * down));
}

template <class T>
void layer_norm(std::int64_t rows, std::int64_t cols, double epsilon, const T* x, const T* residual, const T* gamma,
                const T* beta, T* sum, T* y, T* mean, T* rstd) {
  parallel_for(rows, kRowBlock, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const T* from = x + row * cols;
      if (residual) {
        map(
            cols, sum + row * cols, [](auto v, auto w) TAPECACHE_INLINE { return hn::Add(v, w); }, from,
            residual + row * cols);
        from = sum + row * cols;
      }
      normalize_rows(0, 1, cols, epsilon, from, gamma, beta, y + row * cols, mean + row, rstd + row);
    }
  });
}

template <class Low>
void low_layer_norm(std::int64_t rows, std::int64_t cols, double epsilon, const float* x, const float* gamma,
                    const float* beta, Low* y, float* mean, float* rstd) {
  parallel_for(rows, kRowBlock, [=](std::int64_t begin, std::int64_t end) {
    normalize_rows(begin, end, cols, epsilon, x, gamma, beta, y, mean, rstd);
  });
}

template <class T>
void layer_norm_backward(std::int64_t rows, std::int64_t cols, const T* x, const T* gamma, const T* mean, const T* rstd,
                         const T* dy, T* dx, Mode dx_mode, T* dgamma, Mode dgamma_mode, T* dbeta, Mode dbeta_mode) {
  const std::int64_t block = std::max(kRowBlock, (rows + kMaxBlocks - 1) / kMaxBlocks);
  const std::int64_t blocks = (rows + block - 1) / block, size = column_sums_size<T>(cols);
  const bool wants_sums = dgamma || dbeta;
  std::vector<double> gamma_partial(static_cast<std::size_t>(wants_sums ? blocks * size : 0)),
      beta_partial(gamma_partial);
  parallel_for(rows, block, [&](std::int64_t begin, std::int64_t end) {
    const std::array sums{gamma_partial.data() + begin / block * size, beta_partial.data() + begin / block * size};
    for (std::int64_t first = begin; first < end; first += kGroup) {
      const std::int64_t last = std::min(end, first + kGroup);
      if (wants_sums) {
        add_rows<T, 2>(first, last, cols, sums, [=](std::int64_t row, std::int64_t j, auto at) TAPECACHE_INLINE {
          const auto g = at.load(dy + row * cols + j), v = at.load(x + row * cols + j);
          return std::array{hn::Mul(g, hn::Mul(hn::Sub(v, set(mean[row])), set(rstd[row]))), g};
        });
      }
      for (std::int64_t row = first; dx && row < last; ++row) {
        const T *from = x + row * cols, *g_row = dy + row * cols;
        const Vec<T> centre = set(mean[row]), inverse = set(rstd[row]);
        const auto [sum, dot] = two_sums_of<T>(
            cols,
            [=](auto& of_g, auto& of_product, auto g, auto c, auto v) TAPECACHE_INLINE {
              const auto scaled = hn::Mul(g, c);
              of_g = hn::Add(of_g, scaled);
              of_product = hn::MulAdd(scaled, hn::Mul(hn::Sub(v, centre), inverse), of_product);
            },
            g_row, gamma, from);
        const double count = static_cast<double>(cols);
        const Vec<T> mean_of_g = set(static_cast<T>(sum / count)), slope = set(rstd[row] * static_cast<T>(dot / count));
        map_to(
            dx_mode, cols, dx + row * cols,
            [=](auto g, auto c, auto v) TAPECACHE_INLINE {
              const auto projected = hn::NegMulAdd(hn::Sub(v, centre), slope, hn::Sub(hn::Mul(g, c), mean_of_g));
              return hn::Mul(inverse, projected);
            },
            g_row, gamma, from);
      }
    }
  });
  sum_partials(gamma_partial, blocks, size, cols, dgamma, dgamma_mode);
  sum_partials(beta_partial, blocks, size, cols, dbeta, dbeta_mode);
}

template <class T>
void rms_norm(std::int64_t rows, std::int64_t cols, double epsilon, const T* x, const T* gamma, T* y, T* factor) {
  parallel_for(rows, kRowBlock, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      factor[row] = inverse_rms(x + row * cols, cols, epsilon);
      map(
          cols, y + row * cols,
          [f = set(factor[row])](auto v, auto g) TAPECACHE_INLINE { return hn::Mul(hn::Mul(v, f), g); }, x + row * cols,
          gamma);
    }
  });
}

template <class T>
void rms_norm_backward(std::int64_t rows, std::int64_t cols, const T* x, const T* gamma, const T* factor, const T* dy,
                       T* dx, Mode dx_mode, T* dgamma, Mode dgamma_mode) {
  const std::int64_t block = std::max(kRowBlock, (rows + kMaxBlocks - 1) / kMaxBlocks);
  const std::int64_t blocks = (rows + block - 1) / block, size = column_sums_size<T>(cols);
  std::vector<double> partial(static_cast<std::size_t>(dgamma ? blocks * size : 0));
  parallel_for(rows, block, [&](std::int64_t begin, std::int64_t end) {
    if (dgamma) {
      add_rows<T, 1>(begin, end, cols, {partial.data() + begin / block * size},
                     [=](std::int64_t row, std::int64_t j, auto at) TAPECACHE_INLINE {
                       const auto unit = hn::Mul(at.load(x + row * cols + j), set(factor[row]));
                       return std::array{hn::Mul(at.load(dy + row * cols + j), unit)};
                     });
    }
    for (std::int64_t row = begin; dx && row < end; ++row) {
      const Vec<T> f = set(factor[row]);
      const double dot = sum_of<T>(
          cols,
          [=](auto sum, auto g, auto c, auto v)
              TAPECACHE_INLINE { return hn::MulAdd(hn::Mul(g, c), hn::Mul(v, f), sum); },
          dy + row * cols, gamma, x + row * cols);
      map_to(
          dx_mode, cols, dx + row * cols,
          [=, mean = set(static_cast<T>(dot / static_cast<double>(cols)))](auto g, auto c, auto v)
              TAPECACHE_INLINE { return hn::Mul(f, hn::NegMulAdd(hn::Mul(v, f), mean, hn::Mul(g, c))); },
          dy + row * cols, gamma, x + row * cols);
    }
  });
  sum_partials(partial, blocks, size, cols, dgamma, dgamma_mode);
}

template <class T>
void l2_normalize(std::int64_t rows, std::int64_t cols, double epsilon, const T* x, T* y, T* inverse) {
  parallel_for(rows, kRowBlock, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const T* from = x + row * cols;
      const T squares = static_cast<T>(row_dot(from, from, cols));
      if (!std::isfinite(squares)) {
        inverse[row] = normalize_large_row(cols, static_cast<T>(epsilon), from, y + row * cols);
        continue;
      }
      const T length = std::sqrt(squares);
      const bool is_short = length < static_cast<T>(epsilon);
      const T divisor = is_short ? static_cast<T>(epsilon) : length;
      map(
          cols, y + row * cols, [d = set(divisor)](auto v) TAPECACHE_INLINE { return hn::Div(v, d); }, from);
      inverse[row] = (is_short ? T{-1} : T{1}) / divisor;
    }
  });
}

template <class T>
void l2_normalize_backward(std::int64_t rows, std::int64_t cols, const T* y, const T* inverse, const T* dy, T* dx,
                           Mode mode) {
  parallel_for(rows, kRowBlock, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const T *unit = y + row * cols, *g_row = dy + row * cols;
      // A short row is divided by the constant ε, not by its length.
      const T along = inverse[row] < T{0} ? T{0} : static_cast<T>(row_dot(unit, g_row, cols));
      map_to(
          mode, cols, dx + row * cols,
          [dot = set(along), factor = set(std::fabs(inverse[row]))](auto g, auto u)
              TAPECACHE_INLINE { return hn::Mul(hn::NegMulAdd(u, dot, g), factor); },
          g_row, unit);
    }
  });
}

template <class T>
constexpr NormalizeKernels<T> kNormalize{
    .layer_norm = layer_norm<T>,
    .layer_norm_backward = layer_norm_backward<T>,
    .rms_norm = rms_norm<T>,
    .rms_norm_backward = rms_norm_backward<T>,
    .l2_normalize = l2_normalize<T>,
    .l2_normalize_backward = l2_normalize_backward<T>,
};
template <class Low>
requires kLowPrecision<Low>
constexpr NormalizeKernels<Low> kNormalize<Low>{
    .layer_norm = low_layer_norm<Low>,
};

}  // namespace

template <>
const NormalizeKernels<float> Provided<NormalizeKernels<float>>::kernels = kNormalize<float>;
template <>
const NormalizeKernels<double> Provided<NormalizeKernels<double>>::kernels = kNormalize<double>;
template <>
const NormalizeKernels<BFloat16> Provided<NormalizeKernels<BFloat16>>::kernels = kNormalize<BFloat16>;
template <>
const NormalizeKernels<Float16> Provided<NormalizeKernels<Float16>>::kernels = kNormalize<Float16>;

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT
