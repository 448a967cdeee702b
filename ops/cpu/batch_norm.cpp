#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <tuple>
#include <utility>
#include <vector>

#include "tapecache/ops/cpu/sums.h"

namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT {

namespace {

constexpr std::int64_t kWork = 32768;     // elements of a block of sums
constexpr std::int64_t kMaxRows = 512;    // of a block: blocks are summed alone, then in order
constexpr std::int64_t kLeastTerms = 32;  // of a partial sum, so that the partial sums stay few

/// Two sums over each channel, [2, channels]: those of the vectors that `terms(d, w)` gives for d = v - centre and w,
/// elements of two arrays.
template <class T, class Terms>
std::vector<double> channel_sums(const Channels& x, const T* v, const T* centre, const T* w, const Terms& terms) {
  const std::int64_t size = column_sums_size<T>(x.count);
  std::vector<double> sums(static_cast<std::size_t>(2 * size));
  if (x.outer * x.inner == 0) return sums;
  const std::int64_t least = (kLeastTerms + x.inner - 1) / x.inner;
  const std::int64_t block = std::max(least, std::min(kMaxRows, block_for(x.count * x.inner, kWork)));
  const std::int64_t blocks = (x.outer + block - 1) / block;
  std::vector<double> partial(static_cast<std::size_t>(blocks * 2 * size));
  parallel_for(x.outer, block, [&](std::int64_t begin, std::int64_t end) {
    double *first = partial.data() + begin / block * 2 * size, *second = first + size;
    if (x.inner == 1) {
      add_rows<T, 2>(begin, end, x.count, {first, second},
                     [=](std::int64_t row, std::int64_t k, auto at) TAPECACHE_INLINE {
                       const std::int64_t i = row * x.count + k;
                       return terms(hn::Sub(at.load(v + i), at.load(centre + k)), at.load(w + i));
                     });
      return;
    }
    for (std::int64_t row = begin; row < end; ++row) {
      for (std::int64_t k = 0; k < x.count; ++k) {
        const std::int64_t from = (row * x.count + k) * x.inner;
        const auto [sum, other] = two_sums_of<T>(
            x.inner,
            [&, middle = set(centre[k])](auto& a, auto& b, auto value, auto weight) TAPECACHE_INLINE {
              const auto both = terms(hn::Sub(value, middle), weight);
              a = hn::Add(a, both[0]);
              b = hn::Add(b, both[1]);
            },
            v + from, w + from);
        first[k] += sum;
        second[k] += other;
      }
    }
  });
  for (std::int64_t i = 0; i < blocks; ++i) {
    map(
        2 * size, sums.data(), [](auto a, auto b) TAPECACHE_INLINE { return hn::Add(a, b); }, sums.data(),
        partial.data() + i * 2 * size);
  }
  return sums;
}

/// to[i] = or += f(element i of x…, its channel's numbers), in parallel. `f(at, i, of_channel)` reads the elements by
/// `at`, and by of_channel(numbers) what belongs to their channels.
template <class T, class F>
void map_channels(const Channels& x, Mode mode, T* to, const F& f) {
  const auto fill = [=](std::int64_t begin, std::int64_t count, const auto& of_channel) {
    for_each_vec<T>(count, [&](std::int64_t j, auto at) TAPECACHE_INLINE {
      const std::int64_t i = begin + j;
      auto values = f(at, i, [&](const T* numbers) TAPECACHE_INLINE { return of_channel(numbers, j, at); });
      if (mode == Mode::kAccumulate) values = hn::Add(at.load(to + i), values);
      at.store(values, to + i);
    });
  };
  if (x.inner == 1) {
    parallel_for(x.outer, block_for(x.count), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        fill(row * x.count, x.count,
             [](const T* numbers, std::int64_t k, auto at) TAPECACHE_INLINE { return at.load(numbers + k); });
      }
    });
  } else {
    parallel_for(x.outer * x.count, block_for(x.inner), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        fill(row * x.inner, x.inner,
             [=](const T* numbers, std::int64_t, auto) TAPECACHE_INLINE { return set(numbers[row % x.count]); });
      }
    });
  }
}

/// Mean and biased variance of a channel in f64, element by element: where sums in T overflow.
template <class T>
std::pair<double, double> wide_moments(const Channels& layout, std::int64_t channel, const T* x) {
  const double count = static_cast<double>(layout.outer * layout.inner);
  const auto mean_of = [&](const auto& term) {
    double sum = 0;
    for (std::int64_t i = 0; i < layout.outer; ++i) {
      const T* from = x + (i * layout.count + channel) * layout.inner;
      for (std::int64_t j = 0; j < layout.inner; ++j) sum += term(static_cast<double>(from[j]));
    }
    return sum / count;
  };
  const double mean = mean_of([](double v) { return v; });
  return {mean, mean_of([=](double v) { return (v - mean) * (v - mean); })};
}

/// Σ dy (x - mean) of a channel in f64, element by element: where terms or sums in T overflow.
template <class T>
double wide_gradient_sum(const Channels& layout, std::int64_t channel, const T* x, T mean, const T* dy) {
  double sum = 0;
  for (std::int64_t i = 0; i < layout.outer; ++i) {
    const std::int64_t from = (i * layout.count + channel) * layout.inner;
    for (std::int64_t j = from; j < from + layout.inner; ++j) {
      sum += static_cast<double>(dy[j]) * (static_cast<double>(x[j]) - static_cast<double>(mean));
    }
  }
  return sum;
}

template <class T>
std::vector<T> inverse_deviations(std::int64_t channels, const T* variance, double epsilon) {
  std::vector<T> inverse(variance, variance + channels);
  for (T& v : inverse) v = T{1} / std::sqrt(v + static_cast<T>(epsilon));
  return inverse;
}

/// The mean of each channel, or 0 where its variance does not fit T: a slope of 0 times what is left of x would be NaN
/// where the difference to the mean overflows too.
template <class T>
std::vector<T> centres(std::int64_t channels, const T* mean, const T* variance) {
  std::vector<T> centre(mean, mean + channels);
  for (std::int64_t k = 0; k < channels; ++k) {
    if (std::isinf(variance[k])) centre[static_cast<std::size_t>(k)] = T{0};
  }
  return centre;
}

/// Whether a difference x - centre may overflow though x and the centre do not.
template <class T>
bool differences_may_overflow(std::int64_t channels, const T* centre) {
  // Less than half of the largest number's last digit: such a difference rounds to that number.
  constexpr T kSafe = std::numeric_limits<T>::max() * (std::numeric_limits<T>::epsilon() / 8);
  return std::any_of(centre, centre + channels, [](T c) { return std::abs(c) > kSafe; });
}

template <class T>
void channel_statistics(const Channels& layout, const T* x, T* mean, T* variance) {
  const double count = static_cast<double>(layout.outer * layout.inner);
  const std::int64_t second = column_sums_size<T>(layout.count);
  const auto moments = [](auto d, auto) TAPECACHE_INLINE { return std::array{d, hn::Mul(d, d)}; };
  std::fill_n(mean, layout.count, T{0});
  const std::vector<double> totals = channel_sums(layout, x, mean, x, moments);
  for (std::int64_t k = 0; k < layout.count; ++k) mean[k] = static_cast<T>(totals[static_cast<std::size_t>(k)] / count);
  // Two passes, where the second makes good what rounding took from the first mean (Chan et al. 1983).
  const std::vector<double> sums = channel_sums(layout, x, mean, x, moments);
  for (std::int64_t k = 0; k < layout.count; ++k) {
    const double shift = sums[static_cast<std::size_t>(k)] / count;
    const double squares = sums[static_cast<std::size_t>(second + k)] / count;
    double average = static_cast<double>(mean[k]) + shift, spread = std::max(squares - shift * shift, 0.0);  // or NaN
    if (!std::isfinite(spread)) std::tie(average, spread) = wide_moments(layout, k, x);
    mean[k] = static_cast<T>(average);
    variance[k] = static_cast<T>(spread);
  }
}

template <class T>
void batch_norm(const Channels& layout, double epsilon, const T* x, const T* gamma, const T* beta, const T* mean,
                const T* variance, T* y) {
  std::vector<T> factors = inverse_deviations(layout.count, variance, epsilon);
  for (std::int64_t k = 0; k < layout.count; ++k) factors[static_cast<std::size_t>(k)] *= gamma[k];
  const T* factor = factors.data();
  if (differences_may_overflow(layout.count, mean)) {  // and those of halves do not
    for (T& f : factors) f *= T{2};
    map_channels(layout, Mode::kWrite, y, [=](auto at, std::int64_t i, const auto& of_channel) TAPECACHE_INLINE {
      const auto half = set(T{0.5});
      const auto d = hn::Sub(hn::Mul(at.load(x + i), half), hn::Mul(of_channel(mean), half));
      return hn::MulAdd(d, of_channel(factor), of_channel(beta));
    });
    return;
  }
  map_channels(layout, Mode::kWrite, y, [=](auto at, std::int64_t i, const auto& of_channel) TAPECACHE_INLINE {
    return hn::MulAdd(hn::Sub(at.load(x + i), of_channel(mean)), of_channel(factor), of_channel(beta));
  });
}

template <class T>
void batch_norm_backward(const Channels& layout, double epsilon, bool own_statistics, const T* x, const T* gamma,
                         const T* mean, const T* variance, const T* dy, T* dx, Mode dx_mode, T* dgamma,
                         Mode dgamma_mode, T* dbeta, Mode dbeta_mode) {
  const std::vector<T> inverse = inverse_deviations(layout.count, variance, epsilon);
  const std::vector<T> middles = centres(layout.count, mean, variance);
  const T* centre = middles.data();
  const auto second = static_cast<std::size_t>(column_sums_size<T>(layout.count));
  std::vector<double> sums;  // Σ dy, Σ dy (x - mean)
  if (dgamma || dbeta || own_statistics) {
    sums = channel_sums(layout, x, centre, dy, [](auto d, auto g) TAPECACHE_INLINE {
      return std::array{g, hn::Mul(g, d)};
    });
  }
  for (std::size_t k = 0; k < inverse.size() && !sums.empty(); ++k) {
    if (!std::isfinite(sums[second + k]) && inverse[k] != 0) {
      sums[second + k] = wide_gradient_sum(layout, static_cast<std::int64_t>(k), x, centre[k], dy);
    }
  }
  if (dx) {
    // dx = factor (dy - shift - slope (x - mean))
    const double count = static_cast<double>(layout.outer * layout.inner);
    std::vector<T> factors(inverse), shifts(inverse.size(), T{0}), slopes(inverse.size(), T{0});
    for (std::size_t k = 0; k < inverse.size(); ++k) {
      factors[k] *= gamma[k];
      if (!own_statistics) continue;
      shifts[k] = static_cast<T>(sums[k] / count);
      const auto of_sum = static_cast<double>(inverse[k]);
      if (of_sum == 0) continue;  // of a sum that may have overflowed
      slopes[k] = static_cast<T>(sums[second + k] / count * of_sum * of_sum);
    }
    const T *factor = factors.data(), *shift = shifts.data(), *slope = slopes.data();
    if (own_statistics) {
      map_channels(layout, dx_mode, dx, [=](auto at, std::int64_t i, const auto& of_channel) TAPECACHE_INLINE {
        const auto g = hn::Sub(at.load(dy + i), of_channel(shift)), d = hn::Sub(at.load(x + i), of_channel(centre));
        return hn::Mul(of_channel(factor), hn::NegMulAdd(of_channel(slope), d, g));
      });
    } else {  // a slope of 0 times an infinite x would be NaN
      map_channels(layout, dx_mode, dx, [=](auto at, std::int64_t i, const auto& of_channel) TAPECACHE_INLINE {
        return hn::Mul(of_channel(factor), at.load(dy + i));
      });
    }
  }
  for (std::size_t k = 0; dgamma && k < inverse.size(); ++k) {
    const auto factor = static_cast<double>(inverse[k]);
    put(dgamma[k], static_cast<T>(factor == 0 ? 0 : sums[second + k] * factor), dgamma_mode);
  }
  for (std::size_t k = 0; dbeta && k < inverse.size(); ++k) put(dbeta[k], static_cast<T>(sums[k]), dbeta_mode);
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

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT
