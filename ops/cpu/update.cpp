#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "tapecache/ops/cpu/sums.h"

namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT {

namespace {

template <class Arrays>
std::int64_t elements_of(std::int64_t count, const Arrays* arrays) {
  return count == 0 ? 0 : arrays[count - 1].first + arrays[count - 1].size;
}

/// `body(array, begin, end)` for those parts of the arrays that lie in elements begin … end of all of them together.
template <class Arrays, class Body>
void for_each_part(std::int64_t count, const Arrays* arrays, std::int64_t begin, std::int64_t end, const Body& body) {
  const auto after = [](std::int64_t at, const Arrays& array) { return at < array.first; };
  for (const Arrays* a = std::upper_bound(arrays, arrays + count, begin, after) - 1;
       a != arrays + count && a->first < end; ++a) {
    body(*a, std::max<std::int64_t>(begin - a->first, 0), std::min(end - a->first, a->size));
  }
}

template <class T>
void adamw(const StepNumbers& numbers, const AdamW& step, std::int64_t count, const AdamWArrays<T>* given) {
  if (numbers.skip_if.now() != 0) return;
  std::vector<AdamWArrays<T>> counted(given, given + count);
  for (AdamWArrays<T>& a : counted) a.steps = a.steps_on_device ? ++*a.steps_on_device : a.steps + 1;
  const AdamWArrays<T>* arrays = counted.data();
  const double learning_rate = numbers.learning_rate.now(), gradient_scale = numbers.gradient_scale.now();
  const auto number = [](double value) { return set(static_cast<T>(value)); };
  parallel_for(elements_of(count, arrays), kUpdateBlock, [=](std::int64_t first, std::int64_t last) {
    const Vec<T> beta1 = number(step.beta1), beta2 = number(step.beta2), rest1 = number(1 - step.beta1),
                 rest2 = number(1 - step.beta2), rate = number(learning_rate), epsilon = number(step.epsilon),
                 scale = number(gradient_scale);
    for_each_part(count, arrays, first, last, [&](const AdamWArrays<T>& a, std::int64_t begin, std::int64_t end) {
      const auto t = static_cast<double>(a.steps);
      const Vec<T> inverse1 = number(1 / (1 - std::pow(step.beta1, t))),
                   inverse2 = number(1 / (1 - std::pow(step.beta2, t)));
      // Not value · (1 - rate · decay): that factor rounds to 1 or to a wrong decay where the product is below 1e-7.
      const Vec<T> decay = number(learning_rate * a.weight_decay);
      for_each_vec<T>(end - begin, [&](std::int64_t from, auto at) TAPECACHE_INLINE {
        const std::int64_t i = begin + from;
        const auto g = hn::Mul(at.load(a.gradient + i), scale);
        const auto m = hn::MulAdd(beta1, at.load(a.m + i), hn::Mul(rest1, g));
        const auto v = hn::MulAdd(beta2, at.load(a.v + i), hn::Mul(hn::Mul(rest2, g), g));
        const auto value = at.load(a.value + i);
        const auto direction =
            hn::Div(hn::Mul(rate, hn::Mul(m, inverse1)), hn::Add(hn::Sqrt(hn::Mul(v, inverse2)), epsilon));
        at.store(m, a.m + i);
        at.store(v, a.v + i);
        at.store(hn::Sub(value, hn::MulAdd(decay, value, direction)), a.value + i);
      });
    });
  });
}

template <class T>
void sgd(const StepNumbers& numbers, const Sgd& step, std::int64_t count, const SgdArrays<T>* arrays) {
  if (numbers.skip_if.now() != 0) return;
  const T learning_rate = static_cast<T>(numbers.learning_rate.now()),
          gradient_scale = static_cast<T>(numbers.gradient_scale.now());
  parallel_for(elements_of(count, arrays), kUpdateBlock, [=](std::int64_t first, std::int64_t last) {
    const Vec<T> momentum = set(static_cast<T>(step.momentum)), rate = set(learning_rate), scale = set(gradient_scale);
    for_each_part(count, arrays, first, last, [&](const SgdArrays<T>& a, std::int64_t begin, std::int64_t end) {
      const Vec<T> decay = set(static_cast<T>(a.weight_decay));
      for_each_vec<T>(end - begin, [&](std::int64_t from, auto at) TAPECACHE_INLINE {
        const std::int64_t i = begin + from;
        const auto value = at.load(a.value + i);
        const auto with_gradient = hn::MulAdd(at.load(a.gradient + i), scale, hn::Mul(decay, value));
        const auto velocity = hn::MulAdd(momentum, at.load(a.velocity + i), with_gradient);
        at.store(velocity, a.velocity + i);
        at.store(hn::NegMulAdd(rate, velocity, value), a.value + i);
      });
    });
  });
}

/// Σ sum_part(elements, their number) over pieces of all arrays, by blocks.
template <class T, class SumPart>
void sum_over(std::int64_t count, const ConstArray<T>* arrays, const SumPart& sum_part, double* partials,
              double* result, Mode mode) {
  const std::int64_t elements = elements_of(count, arrays);
  parallel_for(elements, kUpdateBlock, [=](std::int64_t first, std::int64_t last) {
    double sum = 0;
    for_each_part(count, arrays, first, last, [&](const ConstArray<T>& a, std::int64_t begin, std::int64_t end) {
      sum += sum_part(a.data + begin, end - begin);
    });
    partials[first / kUpdateBlock] = sum;
  });
  double total = 0;
  for (std::int64_t block = 0; block * kUpdateBlock < elements; ++block) total += partials[block];
  put(*result, total, mode);
}

template <class T>
void squared_norm(std::int64_t count, const ConstArray<T>* arrays, double* partials, double* sum, Mode mode) {
  const auto squares = [](const T* x, std::int64_t n) { return wide_dot(x, x, n); };
  sum_over(count, arrays, squares, partials, sum, mode);
}

template <class T>
void count_non_finite(std::int64_t count, const ConstArray<T>* arrays, double* partials, double* number, Mode mode) {
  const auto others = [](const T* x, std::int64_t n) {
    const auto add =
        [largest = set(std::numeric_limits<T>::max()), one = set(T{1})](auto sum, auto v)
            TAPECACHE_INLINE { return hn::Add(sum, hn::IfThenZeroElse(hn::Le(hn::Abs(v), largest), one)); };
    return sum_of<T>(n, add, x);
  };
  sum_over(count, arrays, others, partials, number, mode);
}

template <class T>
void clip(std::int64_t count, const MutableArray<T>* arrays, const double* squared_norm, double max_norm) {
  const double norm = std::sqrt(*squared_norm);
  if (!std::isfinite(norm) || norm <= max_norm) return;
  const auto factor = static_cast<T>(max_norm / norm);
  parallel_for(elements_of(count, arrays), kUpdateBlock, [=](std::int64_t first, std::int64_t last) {
    for_each_part(count, arrays, first, last, [=](const MutableArray<T>& a, std::int64_t begin, std::int64_t end) {
      map(
          end - begin, a.data + begin, [f = set(factor)](auto v) TAPECACHE_INLINE { return hn::Mul(v, f); },
          a.data + begin);
    });
  });
}

template <class T>
constexpr UpdateKernels<T> kUpdate{
    .adamw = adamw<T>,
    .sgd = sgd<T>,
    .squared_norm = squared_norm<T>,
    .count_non_finite = count_non_finite<T>,
    .clip = clip<T>,
};

}  // namespace

template <>
const UpdateKernels<float> Provided<UpdateKernels<float>>::kernels = kUpdate<float>;
template <>
const UpdateKernels<double> Provided<UpdateKernels<double>>::kernels = kUpdate<double>;

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT
