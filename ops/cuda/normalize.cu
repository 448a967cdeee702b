#include <algorithm>
#include <cmath>

#include "tapecache/core/element.h"
#include "tapecache/ops/cuda/cuda_kernels.h"
#include "tapecache/ops/cuda/row_threads.cuh"
#include "tapecache/ops/cuda/sum_terms.cuh"

namespace tapecache::kernels::cuda {

namespace {

/// A power of two by which values whose squares overflow become ones whose squares do not.
template <class T>
constexpr T kDown = sizeof(T) == sizeof(float) ? T(0x1p-96) : T(0x1p-768);

/// x + residual, or x where there is no residual.
template <class T>
struct WithResidual {
  const T *x, *residual;
  __device__ T operator()(std::int64_t at) const { return residual ? x[at] + residual[at] : x[at]; }
};

/// Mean and biased variance are taken from the differences to a first mean, which makes good what that lost in rounding
/// (Chan et al. 1983). Out is T, or what y is rounded to.
template <class T, class Out, class By>
__global__ void __launch_bounds__(kMaxRowThreads)
    layer_norm_kernel(std::int64_t rows, std::int64_t cols, T epsilon, const T* x, const T* residual,
                      const T* __restrict__ gamma, const T* __restrict__ beta, T* sum, Out* y, T* mean, T* rstd) {
  for (std::int64_t i = By::first_row(); i < rows; i += By::row_step()) {
    const std::int64_t from = i * cols;
    const Row<By, WithResidual<T>> row(cols, {x + from, residual ? residual + from : nullptr});
    if (residual) row.each([=](std::int64_t at, T v) { sum[from + at] = v; });
    T average, inverse;
    const auto take_moments = [&](T down) {
      const T near_mean = row.mean([=](std::int64_t, T v) { return v * down; });
      const Pair<T> differences = row.mean([=](std::int64_t, T v) {
        const T d = v * down - near_mean;
        return Pair<T>(d, d * d);
      });
      const T shift = differences.first, variance = differences.second - shift * shift;
      average = (near_mean + shift) / down;
      // In this order a NaN stays one.
      inverse = down / std::sqrt((variance < T{0} ? T{0} : variance) + epsilon * down * down);
      return std::isfinite(variance);
    };
    if (!take_moments(T{1})) take_moments(kDown<T>);
    row.each([=](std::int64_t at, T v) { y[from + at] = Out((v - average) * inverse * gamma[at] + beta[at]); });
    if (By::thread() == 0) {
      mean[i] = average;
      rstd[i] = inverse;
    }
  }
}

/// dx, unless that is null; and, where there are `partials`, dγ and dβ over the rows that a thread takes part in, for
/// each place: a row of partials for each first row. What dx holds is read before anything is written: a load that has
/// to stay behind a store waits for memory all by itself.
template <class T, class By>
__global__ void __launch_bounds__(kMaxRowThreads)
    layer_norm_backward_kernel(std::int64_t rows, std::int64_t cols, const T* x, const T* __restrict__ gamma,
                               const T* mean, const T* rstd, const T* dy, T* dx, Mode mode, Pair<T>* partials) {
  constexpr int kPlaces = By::kHeld > 0 ? By::kHeld : 1;
  const bool adds = dx && mode == Mode::kAccumulate;
  Pair<T> own[kPlaces];
  for (Pair<T>& sum : own) sum = Pair<T>(0);
  for (std::int64_t i = By::first_row(); i < rows; i += By::row_step()) {
    const T average = mean[i], inverse = rstd[i];
    const Row<By, PairedElements<T>> row(cols, {x + i * cols, dy + i * cols});
    T before[kPlaces];
    if (adds) row.each_held([&](int k, std::int64_t at, Pair<T>) { before[k] = dx[i * cols + at]; });
    if (partials) {
      row.each_held([&](int k, std::int64_t, Pair<T> v) {
        own[k] += Pair<T>(v.second * ((v.first - average) * inverse), v.second);
      });
    }
    if (!dx) continue;
    // of dy γ and dy γ x̂
    const Pair<T> means = row.mean([=](std::int64_t at, Pair<T> v) {
      const T scaled = v.second * gamma[at];
      return Pair<T>(scaled, scaled * ((v.first - average) * inverse));
    });
    const T shift = means.first, slope = inverse * means.second;
    const auto gradient = [=](std::int64_t at, Pair<T> v) {
      return inverse * (v.second * gamma[at] - shift - (v.first - average) * slope);
    };
    if constexpr (By::kHeld > 0) {
      row.each_held([&](int k, std::int64_t at, Pair<T> v) {
        const T value = gradient(at, v);
        dx[i * cols + at] = adds ? before[k] + value : value;
      });
    } else {
      row.each([&](std::int64_t at, Pair<T> v) { put(dx[i * cols + at], gradient(at, v), mode); });
    }
  }
  if (!partials) return;
#pragma unroll
  for (int k = 0; k < By::kHeld; ++k) {
    const std::int64_t at = Row<By, PairedElements<T>>::place(k);
    if (at < cols) partials[By::first_row() * cols + at] = own[k];
  }
}

/// dγ and dβ of column i by row k.
template <class T>
struct ParameterTerm {
  std::int64_t cols;
  const T *x, *mean, *rstd, *dy;
  __device__ Pair<T> operator()(std::int64_t i, std::int64_t k) const {
    const T g = dy[k * cols + i];
    return {g * ((x[k * cols + i] - mean[k]) * rstd[k]), g};
  }
};

/// The same by row k of partial sums.
template <class T>
struct PartialTerm {
  std::int64_t cols;
  const Pair<T>* partials;
  __device__ Pair<T> operator()(std::int64_t i, std::int64_t k) const { return partials[k * cols + i]; }
};

/// Where partial sums overflowed, the terms themselves are added.
template <class T>
__global__ void put_parameters_kernel(std::int64_t rows, std::int64_t cols, const Pair<T>* sums, ParameterTerm<T> term,
                                      T* dgamma, Mode dgamma_mode, T* dbeta, Mode dbeta_mode) {
  using Long = typename LongSum<Pair<T>>::Type;
  for (std::int64_t i = thread_index(); i < cols; i += thread_count()) {
    Pair<T> sum = sums[i];
    if constexpr (!std::is_same_v<Pair<T>, Long>) {
      if (!all_finite(sum)) {
        Long each(0);
        for (std::int64_t k = 0; k < rows; ++k) each += static_cast<Long>(term(i, k));
        sum = static_cast<Pair<T>>(finite_or(sum, each));
      }
    }
    if (dgamma) put(dgamma[i], sum.first, dgamma_mode);
    if (dbeta) put(dbeta[i], sum.second, dbeta_mode);
  }
}

template <class T, class By>
__global__ void __launch_bounds__(kMaxRowThreads)
    rms_norm_kernel(std::int64_t rows, std::int64_t cols, T epsilon, const T* x, const T* __restrict__ gamma, T* y,
                    T* factor) {
  for (std::int64_t i = By::first_row(); i < rows; i += By::row_step()) {
    const Row<By, Elements<T>> row(cols, {x + i * cols});
    T square = row.mean([](std::int64_t, T v) { return v * v; }), down{1};
    if (!std::isfinite(square)) {
      down = kDown<T>;
      square = row.mean([=](std::int64_t, T v) { return (v * down) * (v * down); });
    }
    const T f = down / std::sqrt(square + epsilon * down * down);
    row.each([=](std::int64_t at, T v) { y[i * cols + at] = v * f * gamma[at]; });
    if (By::thread() == 0) factor[i] = f;
  }
}

template <class T, class By>
__global__ void __launch_bounds__(kMaxRowThreads)
    rms_norm_backward_kernel(std::int64_t rows, std::int64_t cols, const T* x, const T* __restrict__ gamma,
                             const T* factor, const T* dy, T* dx, Mode mode) {
  for (std::int64_t i = By::first_row(); i < rows; i += By::row_step()) {
    const T f = factor[i];
    const Row<By, PairedElements<T>> row(cols, {x + i * cols, dy + i * cols});
    const T mean = row.mean([=](std::int64_t at, Pair<T> v) { return v.second * gamma[at] * (v.first * f); });
    row.each([=](std::int64_t at, Pair<T> v) {
      put(dx[i * cols + at], f * (v.second * gamma[at] - v.first * f * mean), mode);
    });
  }
}

/// dγ of rms_norm, of column i by row k.
template <class T>
struct ScaleTerm {
  std::int64_t cols;
  const T *x, *factor, *dy;
  __device__ T operator()(std::int64_t i, std::int64_t k) const {
    return dy[k * cols + i] * (x[k * cols + i] * factor[k]);
  }
};

template <class T, class By>
__global__ void __launch_bounds__(kMaxRowThreads)
    l2_normalize_kernel(std::int64_t rows, std::int64_t cols, T epsilon, const T* x, T* y, T* inverse) {
  for (std::int64_t i = By::first_row(); i < rows; i += By::row_step()) {
    const Row<By, Elements<T>> row(cols, {x + i * cols});
    T squares = row.sum([](std::int64_t, T v) { return v * v; }), down{1};
    if (!std::isfinite(squares)) {  // they overflow: by way of a row that is smaller by a power of two
      down = kDown<T>;
      squares = row.sum([=](std::int64_t, T v) { return (v * down) * (v * down); });
    }
    const T length = std::sqrt(squares), least = epsilon * down;
    const bool is_short = length < least;
    const T divisor = is_short ? least : length;
    row.each([=](std::int64_t at, T v) { y[i * cols + at] = v * down / divisor; });
    if (By::thread() == 0) inverse[i] = (is_short ? T{-1} : T{1}) / divisor * down;
  }
}

template <class T, class By>
__global__ void __launch_bounds__(kMaxRowThreads)
    l2_normalize_backward_kernel(std::int64_t rows, std::int64_t cols, const T* y, const T* inverse, const T* dy, T* dx,
                                 Mode mode) {
  for (std::int64_t i = By::first_row(); i < rows; i += By::row_step()) {
    const Row<By, PairedElements<T>> row(cols, {y + i * cols, dy + i * cols});
    T dot = row.sum([](std::int64_t, Pair<T> v) { return v.first * v.second; });
    if (inverse[i] < T{0}) dot = T{0};  // divided by the constant ε, not by the length
    const T factor = std::fabs(inverse[i]);
    row.each([=](std::int64_t at, Pair<T> v) { put(dx[i * cols + at], (v.second - v.first * dot) * factor, mode); });
  }
}

template <class T>
void layer_norm(std::int64_t rows, std::int64_t cols, double epsilon, const T* x, const T* residual, const T* gamma,
                const T* beta, T* sum, T* y, T* mean, T* rstd) {
  with_row_threads(rows, cols, [&]<class By>(By, const Grid& grid) {
    launch(layer_norm_kernel<T, T, By>, grid, rows, cols, epsilon, x, residual, gamma, beta, sum, y, mean, rstd);
  });
}

template <class Low>
void low_layer_norm(std::int64_t rows, std::int64_t cols, double epsilon, const float* x, const float* gamma,
                    const float* beta, Low* y, float* mean, float* rstd) {
  with_row_threads(rows, cols, [&]<class By>(By, const Grid& grid) {
    launch(layer_norm_kernel<float, Low, By>, grid, rows, cols, epsilon, x, nullptr, gamma, beta, nullptr, y, mean,
           rstd);
  });
}

template <class T>
void layer_norm_backward(std::int64_t rows, std::int64_t cols, const T* x, const T* gamma, const T* mean, const T* rstd,
                         const T* dy, T* dx, Mode dx_mode, T* dgamma, Mode dgamma_mode, T* dbeta, Mode dbeta_mode) {
  constexpr unsigned kMaxWarpsWithSums = 2048;  // a number that no device has a say in, as sums depend on it
  const bool wants_sums = dgamma || dbeta;
  const Scratch<Pair<T>> sums(wants_sums ? cols : 0);
  const ParameterTerm<T> term{cols, x, mean, rstd, dy};
  with_row_threads(rows, cols, [&]<class By>(By, Grid grid) {
    const auto run = [&](Pair<T>* partials) {
      launch(layer_norm_backward_kernel<T, By>, grid, rows, cols, x, gamma, mean, rstd, dy, dx, dx_mode, partials);
    };
    if (!wants_sums || By::kHeld == 0) {
      if (dx) run(nullptr);
      if (wants_sums) {
        sum_terms<Adjacent::kSums>(cols, rows, term, Pair<T>(1), sums.data(), Mode::kWrite);
      }
      return;
    }
    grid.blocks.x = std::min(grid.blocks.x, kMaxWarpsWithSums * kWarp / grid.threads.x);
    const std::int64_t first_rows = grid.blocks.x * By::first_rows_of_block();
    const Scratch<Pair<T>> partials(first_rows * cols);
    run(partials.data());
    sum_terms<Adjacent::kSums>(cols, first_rows, PartialTerm<T>{cols, partials.data()}, Pair<T>(1), sums.data(),
                               Mode::kWrite);
  });
  if (!wants_sums) return;
  launch(put_parameters_kernel<T>, grid_for(cols), rows, cols, sums.data(), term, dgamma, dgamma_mode, dbeta,
         dbeta_mode);
}

template <class T>
void rms_norm(std::int64_t rows, std::int64_t cols, double epsilon, const T* x, const T* gamma, T* y, T* factor) {
  with_row_threads(rows, cols, [&]<class By>(By, const Grid& grid) {
    launch(rms_norm_kernel<T, By>, grid, rows, cols, epsilon, x, gamma, y, factor);
  });
}

template <class T>
void rms_norm_backward(std::int64_t rows, std::int64_t cols, const T* x, const T* gamma, const T* factor, const T* dy,
                       T* dx, Mode dx_mode, T* dgamma, Mode dgamma_mode) {
  if (dx) {
    with_row_threads(rows, cols, [&]<class By>(By, const Grid& grid) {
      launch(rms_norm_backward_kernel<T, By>, grid, rows, cols, x, gamma, factor, dy, dx, dx_mode);
    });
  }
  if (dgamma) {
    sum_terms<Adjacent::kSums>(cols, rows, ScaleTerm<T>{cols, x, factor, dy}, T(1), dgamma, dgamma_mode);
  }
}

template <class T>
void l2_normalize(std::int64_t rows, std::int64_t cols, double epsilon, const T* x, T* y, T* inverse) {
  with_row_threads(rows, cols, [&]<class By>(By, const Grid& grid) {
    launch(l2_normalize_kernel<T, By>, grid, rows, cols, epsilon, x, y, inverse);
  });
}

template <class T>
void l2_normalize_backward(std::int64_t rows, std::int64_t cols, const T* y, const T* inverse, const T* dy, T* dx,
                           Mode mode) {
  with_row_threads(rows, cols, [&]<class By>(By, const Grid& grid) {
    launch(l2_normalize_backward_kernel<T, By>, grid, rows, cols, y, inverse, dy, dx, mode);
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

}  // namespace tapecache::kernels::cuda
