#include <cmath>

#include "tapecache/ops/cuda/cuda_kernels.h"
#include "tapecache/ops/cuda/pair.cuh"
#include "tapecache/ops/cuda/sum_terms.cuh"

namespace tapecache::kernels::cuda {

namespace {

__device__ std::int64_t channel_of(const Channels& layout, std::int64_t at) { return at / layout.inner % layout.count; }

/// Where value k of channel i is.
__device__ std::int64_t place(const Channels& layout, std::int64_t i, std::int64_t k) {
  if (layout.inner == 1) return k * layout.count + i;
  return (k / layout.inner * layout.count + i) * layout.inner + k % layout.inner;
}

/// to[i] = factor · Σ term(i, k) over the values k of channel i.
template <class T, class To, class Term>
void channel_sums(const Channels& layout, const Term& term, T factor, To* to) {
  sum_terms(layout.count, layout.outer * layout.inner, layout.inner == 1 ? Adjacent::kSums : Adjacent::kTerms, term,
            factor, to, Mode::kWrite);
}

template <class T>
struct Value {
  Channels layout;
  const T* x;
  __device__ T operator()(std::int64_t i, std::int64_t k) const { return x[place(layout, i, k)]; }
};

/// The distance from the mean, and its square.
template <class T>
struct Deviation {
  Channels layout;
  const T *x, *mean;
  __device__ Pair<T> operator()(std::int64_t i, std::int64_t k) const {
    const T d = x[place(layout, i, k)] - mean[i];
    return {d, d * d};
  }
};

/// dy, and dy (x - mean).
template <class T>
struct GradientTerm {
  Channels layout;
  const T *x, *mean, *dy;
  __device__ Pair<T> operator()(std::int64_t i, std::int64_t k) const {
    const std::int64_t at = place(layout, i, k);
    return {dy[at], dy[at] * (x[at] - mean[i])};
  }
};

/// Σ term(k) in f64 by a block of threads: where terms or sums in T overflow.
template <class Term>
__device__ double wide_sum(std::int64_t length, const Term& term) {
  double sum = 0;
  for (std::int64_t k = threadIdx.x; k < length; k += blockDim.x) sum += term(k);
  return block_sum(sum);
}

/// Two passes, where the second makes good what rounding took from the first mean (Chan et al. 1983). A block takes a
/// channel, whose values it reads anew in f64 where squares overflow in T.
template <class T>
__global__ void statistics_kernel(Channels layout, const T* x, const Pair<T>* deviation, T* mean, T* variance) {
  const std::int64_t length = layout.outer * layout.inner;
  for (std::int64_t i = blockIdx.x; i < layout.count; i += gridDim.x) {
    const T shift = deviation[i].first, centred = deviation[i].second - shift * shift;
    if (std::isfinite(centred)) {
      if (threadIdx.x == 0) {
        mean[i] += shift;
        variance[i] = centred < T{0} ? T{0} : centred;
      }
      continue;
    }
    const auto mean_of = [&](const auto& term) {
      return wide_sum(length, [&](std::int64_t k) { return term(static_cast<double>(x[place(layout, i, k)])); }) /
             static_cast<double>(length);
    };
    const double average = mean_of([](double v) { return v; });
    const double spread = mean_of([=](double v) { return (v - average) * (v - average); });
    if (threadIdx.x == 0) {
      mean[i] = static_cast<T>(average);
      variance[i] = static_cast<T>(spread);
    }
  }
}

template <class T>
__global__ void batch_norm_kernel(std::int64_t n, Channels layout, T epsilon, const T* x, const T* gamma, const T* beta,
                                  const T* mean, const T* variance, T* y) {
  for (std::int64_t at = thread_index(); at < n; at += thread_count()) {
    const std::int64_t i = channel_of(layout, at);
    // Halves, whose difference does not overflow; 0 times it would be NaN where the variance does not fit T.
    const T half = x[at] / 2 - mean[i] / 2, factor = gamma[i] / std::sqrt(variance[i] + epsilon);
    y[at] = half * (2 * factor) + beta[i];
  }
}

/// dx = factor (dy - shift - slope (x - mean)) in a channel.
template <class T>
struct Slope {
  T factor, shift, slope, mean;
};

/// The slopes where they are wanted, and the gradients of the parameters. `sums` is of GradientTerm, or null where only
/// dx is wanted and the statistics are constants. A block takes a channel.
template <class T>
__global__ void channel_gradients_kernel(Channels layout, T epsilon, bool own_statistics,
                                         const Pair<typename LongSum<T>::Type>* sums, const T* x, const T* gamma,
                                         const T* mean, const T* variance, const T* dy, Slope<T>* slopes, T* dgamma,
                                         Mode dgamma_mode, T* dbeta, Mode dbeta_mode) {
  using Long = typename LongSum<T>::Type;  // which a sum fits that T has not room for before it is scaled
  const std::int64_t length = layout.outer * layout.inner;
  const Long count = static_cast<Long>(length);
  for (std::int64_t i = blockIdx.x; i < layout.count; i += gridDim.x) {
    const T inverse = T{1} / std::sqrt(variance[i] + epsilon);
    Pair<Long> total = sums ? sums[i] : Pair<Long>(0);
    if (inverse == T{0}) {
      total.second = Long{0};  // what may have overflowed, times 0
    } else if (!std::isfinite(total.second)) {
      total.second = static_cast<Long>(wide_sum(length, [&](std::int64_t k) {
        const std::int64_t at = place(layout, i, k);
        return static_cast<double>(dy[at]) * (static_cast<double>(x[at]) - static_cast<double>(mean[i]));
      }));
    }
    if (threadIdx.x != 0) continue;
    if (slopes) {
      slopes[i] = {inverse * gamma[i], T{0}, T{0}, mean[i]};
      if (own_statistics) {
        slopes[i].shift = static_cast<T>(total.first / count);
        slopes[i].slope = static_cast<T>(total.second / count * Long{inverse} * Long{inverse});
      }
    }
    if (dgamma) put(dgamma[i], static_cast<T>(total.second * Long{inverse}), dgamma_mode);
    if (dbeta) put(dbeta[i], static_cast<T>(total.first), dbeta_mode);
  }
}

template <class T>
__global__ void batch_norm_backward_kernel(std::int64_t n, Channels layout, const Slope<T>* slopes, const T* x,
                                           const T* dy, T* dx, Mode mode) {
  for (std::int64_t at = thread_index(); at < n; at += thread_count()) {
    const Slope<T> s = slopes[channel_of(layout, at)];
    const T along = s.slope == T{0} ? T{0} : s.slope * (x[at] - s.mean);  // 0 times an infinite x would be NaN
    put(dx[at], s.factor * (dy[at] - s.shift - along), mode);
  }
}

template <class T>
void channel_statistics(const Channels& layout, const T* x, T* mean, T* variance) {
  const T share = T{1} / static_cast<T>(layout.outer * layout.inner);
  channel_sums(layout, Value<T>{layout, x}, share, mean);
  const Scratch<Pair<T>> deviation(layout.count);
  channel_sums(layout, Deviation<T>{layout, x, mean}, Pair<T>(share), deviation.data());
  launch(statistics_kernel<T>, grid_of_rows(layout.count), layout, x, deviation.data(), mean, variance);
}

template <class T>
void batch_norm(const Channels& layout, double epsilon, const T* x, const T* gamma, const T* beta, const T* mean,
                const T* variance, T* y) {
  const std::int64_t n = layout.outer * layout.count * layout.inner;
  launch(batch_norm_kernel<T>, grid_for(n), n, layout, epsilon, x, gamma, beta, mean, variance, y);
}

template <class T>
void batch_norm_backward(const Channels& layout, double epsilon, bool own_statistics, const T* x, const T* gamma,
                         const T* mean, const T* variance, const T* dy, T* dx, Mode dx_mode, T* dgamma,
                         Mode dgamma_mode, T* dbeta, Mode dbeta_mode) {
  const std::int64_t n = layout.outer * layout.count * layout.inner;
  const bool needs_sums = dgamma || dbeta || own_statistics;
  const Scratch<Pair<typename LongSum<T>::Type>> sums(needs_sums ? layout.count : 0);
  if (needs_sums) channel_sums(layout, GradientTerm<T>{layout, x, mean, dy}, Pair<T>(1), sums.data());
  const Scratch<Slope<T>> slopes(dx ? layout.count : 0);
  launch(channel_gradients_kernel<T>, grid_of_rows(layout.count), layout, epsilon, own_statistics,
         needs_sums ? sums.data() : nullptr, x, gamma, mean, variance, dy, dx ? slopes.data() : nullptr, dgamma,
         dgamma_mode, dbeta, dbeta_mode);
  if (dx) launch(batch_norm_backward_kernel<T>, grid_for(n), n, layout, slopes.data(), x, dy, dx, dx_mode);
}

template <class T>
constexpr BatchNormKernels<T> kBatchNorm{
    .channel_statistics = channel_statistics<T>,
    .batch_norm = batch_norm<T>,
    .batch_norm_backward = batch_norm_backward<T>,
};

}  // namespace

template <>
const BatchNormKernels<float> Provided<BatchNormKernels<float>>::kernels = kBatchNorm<float>;
template <>
const BatchNormKernels<double> Provided<BatchNormKernels<double>>::kernels = kBatchNorm<double>;

}  // namespace tapecache::kernels::cuda
