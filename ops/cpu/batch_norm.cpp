#include <cmath>
#include <vector>

#include "tapecache/ops/cpu/cpu_kernels.h"

namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT {

namespace {

constexpr std::int64_t kWork = 32768;     // elements of a block of sums
constexpr std::int64_t kMostRows = 512;   // of a block: blocks are summed alone, then in order
constexpr std::int64_t kStretch = 256;    // elements of a channel that are summed before they join the rest
constexpr std::int64_t kLeastTerms = 32;  // of a partial sum, so that the partial sums stay few

/// Two sums over each channel, [2, channels]: of a(v - centre, w) and of b(v - centre, w) for the elements v and w of
/// two arrays. Written over pointers that start at a row, or GCC 12 gathers the elements one by one.
template <class T, class A, class B>
std::vector<T> channel_sums(const Channels& x, const T* v, const T* centre, const T* w, const A& a, const B& b) {
  if (x.outer * x.inner == 0) return std::vector<T>(static_cast<std::size_t>(2 * x.count), T{0});
  const std::int64_t least = (kLeastTerms + x.inner - 1) / x.inner;
  const std::int64_t block = std::max(least, std::min(kMostRows, block_for(x.count * x.inner, kWork)));
  const std::int64_t blocks = (x.outer + block - 1) / block;
  std::vector<T> partial(static_cast<std::size_t>(blocks * 2 * x.count), T{0});
  parallel_for(x.outer, block, [=, to = partial.data()](std::int64_t begin, std::int64_t end) {
    T *first = to + begin / block * 2 * x.count, *second = first + x.count;
    for (std::int64_t row = begin; row < end; ++row) {
      if (x.inner == 1) {
        const T *v_row = v + row * x.count, *w_row = w + row * x.count;
#pragma omp simd
        for (std::int64_t k = 0; k < x.count; ++k) {
          first[k] += a(v_row[k] - centre[k], w_row[k]);
          second[k] += b(v_row[k] - centre[k], w_row[k]);
        }
        continue;
      }
      for (std::int64_t k = 0; k < x.count; ++k) {
        const std::int64_t from = (row * x.count + k) * x.inner;
        const T *v_row = v + from, *w_row = w + from, middle = centre[k];
        // In stretches, so that a long sum in f32 does not lose what it adds last.
        for (std::int64_t start = 0; start < x.inner; start += kStretch) {
          const std::int64_t end_of_stretch = std::min(x.inner, start + kStretch);
          T sum{0}, other{0};
#pragma omp simd reduction(+ : sum, other)
          for (std::int64_t i = start; i < end_of_stretch; ++i) {
            sum += a(v_row[i] - middle, w_row[i]);
            other += b(v_row[i] - middle, w_row[i]);
          }
          first[k] += sum;
          second[k] += other;
        }
      }
    }
  });
  for (std::int64_t i = 1; i < blocks; ++i) {
    const T* from = partial.data() + i * 2 * x.count;
    for (std::int64_t k = 0; k < 2 * x.count; ++k) partial[static_cast<std::size_t>(k)] += from[k];
  }
  return partial;
}

/// Calls body(place, channel) for every element, in parallel.
template <class Body>
void for_each_place(const Channels& x, const Body& body) {
  if (x.inner == 1) {
    parallel_for(x.outer, block_for(x.count), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
#pragma omp simd
        for (std::int64_t k = 0; k < x.count; ++k) body(row * x.count + k, k);
      }
    });
  } else {
    parallel_for(x.outer * x.count, block_for(x.inner), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        const std::int64_t k = row % x.count;
#pragma omp simd
        for (std::int64_t i = 0; i < x.inner; ++i) body(row * x.inner + i, k);
      }
    });
  }
}

template <class T>
std::vector<T> inverse_deviations(std::int64_t channels, const T* variance, double epsilon) {
  std::vector<T> inverse(variance, variance + channels);
  for (T& v : inverse) v = T{1} / std::sqrt(v + static_cast<T>(epsilon));
  return inverse;
}

}  // namespace

template <class T>
void channel_statistics(const Channels& layout, const T* x, T* mean, T* variance) {
  const T count = static_cast<T>(layout.outer * layout.inner);
  const auto difference = [](T d, T) { return d; };
  std::fill_n(mean, layout.count, T{0});
  const std::vector<T> totals = channel_sums(layout, x, mean, x, difference, [](T, T) { return T{0}; });
  for (std::int64_t k = 0; k < layout.count; ++k) mean[k] = totals[static_cast<std::size_t>(k)] / count;
  // Two passes, where the second makes good what rounding took from the first mean (Chan et al. 1983).
  const std::vector<T> sums = channel_sums(layout, x, mean, x, difference, [](T d, T) { return d * d; });
  for (std::int64_t k = 0; k < layout.count; ++k) {
    const T shift = sums[static_cast<std::size_t>(k)] / count;
    const T squares = sums[static_cast<std::size_t>(layout.count + k)] / count;
    mean[k] += shift;
    variance[k] = std::max(squares - shift * shift, T{0});  // in this order a NaN stays one
  }
}

template <class T>
void batch_norm(const Channels& layout, double epsilon, const T* x, const T* gamma, const T* beta, const T* mean,
                const T* variance, T* y) {
  std::vector<T> factors = inverse_deviations(layout.count, variance, epsilon);
  for (std::int64_t k = 0; k < layout.count; ++k) factors[static_cast<std::size_t>(k)] *= gamma[k];
  for_each_place(layout, [=, factor = factors.data()](std::int64_t i, std::int64_t k) {
    y[i] = (x[i] - mean[k]) * factor[k] + beta[k];
  });
}

template <class T>
void batch_norm_backward(const Channels& layout, double epsilon, bool own_statistics, const T* x, const T* gamma,
                         const T* mean, const T* variance, const T* dy, T* dx, Mode dx_mode, T* dgamma,
                         Mode dgamma_mode, T* dbeta, Mode dbeta_mode) {
  const std::vector<T> inverse = inverse_deviations(layout.count, variance, epsilon);
  std::vector<T> sums;  // Σ dy, Σ dy (x - mean)
  if (dgamma || dbeta || own_statistics) {
    sums = channel_sums(layout, x, mean, dy, [](T, T g) { return g; }, [](T d, T g) { return g * d; });
  }
  if (dx) {
    // dx = factor (dy - shift - slope (x - mean))
    const T count = static_cast<T>(layout.outer * layout.inner);
    std::vector<T> factors(inverse), shifts(inverse.size(), T{0}), slopes(inverse.size(), T{0});
    for (std::size_t k = 0; k < inverse.size(); ++k) {
      factors[k] *= gamma[k];
      if (!own_statistics) continue;
      shifts[k] = sums[k] / count;
      slopes[k] = sums[inverse.size() + k] / count * inverse[k] * inverse[k];
    }
    const T *factor = factors.data(), *shift = shifts.data(), *slope = slopes.data();
    for_each_place(layout, [=](std::int64_t i, std::int64_t k) {
      put(dx[i], factor[k] * (dy[i] - shift[k] - slope[k] * (x[i] - mean[k])), dx_mode);
    });
  }
  for (std::size_t k = 0; dgamma && k < inverse.size(); ++k) {
    put(dgamma[k], sums[inverse.size() + k] * inverse[k], dgamma_mode);
  }
  for (std::size_t k = 0; dbeta && k < inverse.size(); ++k) put(dbeta[k], sums[k], dbeta_mode);
}

template void channel_statistics(const Channels&, const float*, float*, float*);
template void channel_statistics(const Channels&, const double*, double*, double*);
template void batch_norm(const Channels&, double, const float*, const float*, const float*, const float*, const float*,
                         float*);
template void batch_norm(const Channels&, double, const double*, const double*, const double*, const double*,
                         const double*, double*);
template void batch_norm_backward(const Channels&, double, bool, const float*, const float*, const float*,
                                  const float*, const float*, float*, Mode, float*, Mode, float*, Mode);
template void batch_norm_backward(const Channels&, double, bool, const double*, const double*, const double*,
                                  const double*, const double*, double*, Mode, double*, Mode, double*, Mode);

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT
