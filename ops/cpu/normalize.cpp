#include <cmath>
#include <vector>

#include "tapecache/ops/cpu/cpu_kernels.h"
#include "tapecache/ops/cpu/row_math.h"

namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT {

namespace {

constexpr std::int64_t kRowBlock = 64;
constexpr std::int64_t kMaxBlocks = 32;  // of partial sums

/// Adds up the blocks' partial rows in block order.
template <class T>
void sum_partials(std::vector<T>& partial, std::int64_t blocks, std::int64_t cols, T* to, Mode mode) {
  if (!to) return;
  T* total = partial.data();
  for (std::int64_t block = 1; block < blocks; ++block) {
    const T* row = total + block * cols;
#pragma omp simd
    for (std::int64_t i = 0; i < cols; ++i) total[i] += row[i];
  }
  for (std::int64_t i = 0; i < cols; ++i) put(to[i], blocks == 0 ? T{0} : total[i], mode);
}

/// Rows [begin, end); Out is T, or what y is rounded to.
template <class T, class Out>
void normalize_rows(std::int64_t begin, std::int64_t end, std::int64_t cols, T epsilon, const T* x, const T* gamma,
                    const T* beta, Out* y, T* mean, T* rstd) {
  for (std::int64_t row = begin; row < end; ++row) {
    const T* from = x + row * cols;
    const T average = row_sum(from, cols) / static_cast<T>(cols);
    T variance{0};
#pragma omp simd reduction(+ : variance)
    for (std::int64_t i = 0; i < cols; ++i) variance += (from[i] - average) * (from[i] - average);
    const T inverse = T{1} / std::sqrt(variance / static_cast<T>(cols) + epsilon);
    Out* to = y + row * cols;
    for (std::int64_t i = 0; i < cols; ++i) to[i] = static_cast<Out>((from[i] - average) * inverse * gamma[i] + beta[i]);
    mean[row] = average;
    rstd[row] = inverse;
  }
}

/// l2_normalize of a row whose sum of squares overflows, by way of one that is smaller by a power of two. Returns what
/// `inverse` is for it.
template <class T>
T normalize_large_row(std::int64_t cols, T epsilon, const T* from, T* to) {
  constexpr T kDown = sizeof(T) == sizeof(float) ? T(0x1p-96) : T(0x1p-768);
  T squares{0};
#pragma omp simd reduction(+ : squares)
  for (std::int64_t i = 0; i < cols; ++i) squares += (from[i] * kDown) * (from[i] * kDown);
  const T length = std::sqrt(squares), least = epsilon * kDown;
  const T factor = T{1} / (length < least ? least : length);
  for (std::int64_t i = 0; i < cols; ++i) to[i] = from[i] * kDown * factor;
  return (length < least ? -factor : factor) * kDown;
}

}  // namespace

template <class T>
void layer_norm(std::int64_t rows, std::int64_t cols, double epsilon, const T* x, const T* residual, const T* gamma,
                const T* beta, T* sum, T* y, T* mean, T* rstd) {
  parallel_for(rows, kRowBlock, [=](std::int64_t begin, std::int64_t end) {
    if (residual) {
      for (std::int64_t i = begin * cols; i < end * cols; ++i) sum[i] = x[i] + residual[i];
    }
    normalize_rows(begin, end, cols, static_cast<T>(epsilon), residual ? sum : x, gamma, beta, y, mean, rstd);
  });
}

template <class Low>
void low_layer_norm(std::int64_t rows, std::int64_t cols, double epsilon, const float* x, const float* gamma,
                    const float* beta, Low* y, float* mean, float* rstd) {
  parallel_for(rows, kRowBlock, [=](std::int64_t begin, std::int64_t end) {
    normalize_rows(begin, end, cols, static_cast<float>(epsilon), x, gamma, beta, y, mean, rstd);
  });
}

template <class T>
void layer_norm_backward(std::int64_t rows, std::int64_t cols, const T* x, const T* gamma, const T* mean,
                         const T* rstd, const T* dy, T* dx, Mode dx_mode, T* dgamma, Mode dgamma_mode, T* dbeta,
                         Mode dbeta_mode) {
  const std::int64_t block = std::max(kRowBlock, (rows + kMaxBlocks - 1) / kMaxBlocks);
  const std::int64_t blocks = (rows + block - 1) / block;
  const bool wants_sums = dgamma || dbeta;
  std::vector<T> gamma_partial(static_cast<std::size_t>(wants_sums ? blocks * cols : 0), T{0});
  std::vector<T> beta_partial(gamma_partial);
  parallel_for(rows, block, [&](std::int64_t begin, std::int64_t end) {
    T* gamma_sum = gamma_partial.data() + begin / block * cols;
    T* beta_sum = beta_partial.data() + begin / block * cols;
    for (std::int64_t row = begin; row < end; ++row) {
      const T *from = x + row * cols, *g = dy + row * cols;
      const T average = mean[row], inverse = rstd[row];
      if (wants_sums) {
#pragma omp simd
        for (std::int64_t i = 0; i < cols; ++i) {
          gamma_sum[i] += g[i] * (from[i] - average) * inverse;
          beta_sum[i] += g[i];
        }
      }
      if (!dx) continue;
      T sum{0}, dot{0};
#pragma omp simd reduction(+ : sum, dot)
      for (std::int64_t i = 0; i < cols; ++i) {
        const T scaled = g[i] * gamma[i];
        sum += scaled;
        dot += scaled * (from[i] - average) * inverse;
      }
      sum /= static_cast<T>(cols);
      dot /= static_cast<T>(cols);
      T* to = dx + row * cols;
      const T slope = inverse * dot;
#pragma omp simd
      for (std::int64_t i = 0; i < cols; ++i) {
        put(to[i], inverse * (g[i] * gamma[i] - sum - (from[i] - average) * slope), dx_mode);
      }
    }
  });
  sum_partials(gamma_partial, blocks, cols, dgamma, dgamma_mode);
  sum_partials(beta_partial, blocks, cols, dbeta, dbeta_mode);
}

template <class T>
void l2_normalize(std::int64_t rows, std::int64_t cols, double epsilon, const T* x, T* y, T* inverse) {
  parallel_for(rows, kRowBlock, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const T* from = x + row * cols;
      T squares{0};
#pragma omp simd reduction(+ : squares)
      for (std::int64_t i = 0; i < cols; ++i) squares += from[i] * from[i];
      if (!std::isfinite(squares)) {
        inverse[row] = normalize_large_row(cols, static_cast<T>(epsilon), from, y + row * cols);
        continue;
      }
      const T length = std::sqrt(squares);
      const bool is_short = length < static_cast<T>(epsilon);
      const T factor = T{1} / (is_short ? static_cast<T>(epsilon) : length);
      for (std::int64_t i = 0; i < cols; ++i) y[row * cols + i] = from[i] * factor;
      inverse[row] = is_short ? -factor : factor;
    }
  });
}

template <class T>
void l2_normalize_backward(std::int64_t rows, std::int64_t cols, const T* y, const T* inverse, const T* dy, T* dx,
                           Mode mode) {
  parallel_for(rows, kRowBlock, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const T *unit = y + row * cols, *g = dy + row * cols;
      T dot{0};
#pragma omp simd reduction(+ : dot)
      for (std::int64_t i = 0; i < cols; ++i) dot += unit[i] * g[i];
      if (inverse[row] < T{0}) dot = T{0};  // divided by the constant ε, not by the length
      const T factor = std::fabs(inverse[row]);
      for (std::int64_t i = 0; i < cols; ++i) put(dx[row * cols + i], (g[i] - unit[i] * dot) * factor, mode);
    }
  });
}

template void layer_norm(std::int64_t, std::int64_t, double, const float*, const float*, const float*, const float*,
                         float*, float*, float*, float*);
template void layer_norm(std::int64_t, std::int64_t, double, const double*, const double*, const double*,
                         const double*, double*, double*, double*, double*);
template void low_layer_norm(std::int64_t, std::int64_t, double, const float*, const float*, const float*, BFloat16*, float*,
                             float*);
template void low_layer_norm(std::int64_t, std::int64_t, double, const float*, const float*, const float*, Float16*, float*,
                             float*);
template void layer_norm_backward(std::int64_t, std::int64_t, const float*, const float*, const float*, const float*,
                                  const float*, float*, Mode, float*, Mode, float*, Mode);
template void layer_norm_backward(std::int64_t, std::int64_t, const double*, const double*, const double*,
                                  const double*, const double*, double*, Mode, double*, Mode, double*, Mode);
template void l2_normalize(std::int64_t, std::int64_t, double, const float*, float*, float*);
template void l2_normalize(std::int64_t, std::int64_t, double, const double*, double*, double*);
template void l2_normalize_backward(std::int64_t, std::int64_t, const float*, const float*, const float*, float*,
                                    Mode);
template void l2_normalize_backward(std::int64_t, std::int64_t, const double*, const double*, const double*, double*,
                                    Mode);

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT
