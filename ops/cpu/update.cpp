#include <algorithm>
#include <cmath>
#include <vector>

#include "tapecache/ops/cpu/cpu_kernels.h"

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

bool is_wanted(const LateNumbers& late) { return !late.non_finite || *late.non_finite == 0; }

/// The step with the late numbers in their place.
template <class Step>
Step with_late_numbers(Step step) {
  if (step.late.learning_rate) step.learning_rate = *step.late.learning_rate;
  if (step.late.gradient_scale) step.gradient_scale = *step.late.gradient_scale;
  return step;
}

}  // namespace

template <class T>
void adamw(const AdamW& given, std::int64_t count, const AdamWArrays<T>* arrays) {
  if (!is_wanted(given.late)) return;
  const AdamW step = with_late_numbers(given);
  std::vector<AdamWArrays<T>> counted;
  if (count > 0 && arrays[0].steps) {
    counted.assign(arrays, arrays + count);
    for (AdamWArrays<T>& a : counted) {
      const auto t = static_cast<double>(++*a.steps);
      a.correction1 = 1 - std::pow(step.beta1, t);
      a.correction2 = 1 - std::pow(step.beta2, t);
    }
    arrays = counted.data();
  }
  const auto beta1 = static_cast<T>(step.beta1), beta2 = static_cast<T>(step.beta2);
  const auto rest1 = static_cast<T>(1 - step.beta1), rest2 = static_cast<T>(1 - step.beta2);
  const auto rate = static_cast<T>(step.learning_rate), epsilon = static_cast<T>(step.epsilon);
  const auto scale = static_cast<T>(step.gradient_scale);
  parallel_for(elements_of(count, arrays), kUpdateBlock, [=](std::int64_t first, std::int64_t last) {
    for_each_part(count, arrays, first, last, [=](const AdamWArrays<T>& a, std::int64_t begin, std::int64_t end) {
      const auto inverse1 = static_cast<T>(1 / a.correction1), inverse2 = static_cast<T>(1 / a.correction2);
      // Not value · (1 - rate · decay): that factor rounds to 1 or to a wrong decay where the product is below 1e-7.
      const auto decay = static_cast<T>(step.learning_rate * a.weight_decay);
      const T* gradient = a.gradient;
      T *value = a.value, *m = a.m, *v = a.v;
#pragma omp simd
      for (std::int64_t i = begin; i < end; ++i) {
        const T g = gradient[i] * scale;
        m[i] = beta1 * m[i] + rest1 * g;
        v[i] = beta2 * v[i] + rest2 * g * g;
        value[i] -= decay * value[i] + rate * (m[i] * inverse1) / (std::sqrt(v[i] * inverse2) + epsilon);
      }
    });
  });
}

template <class T>
void sgd(const Sgd& given, std::int64_t count, const SgdArrays<T>* arrays) {
  if (!is_wanted(given.late)) return;
  const Sgd step = with_late_numbers(given);
  const auto momentum = static_cast<T>(step.momentum), rate = static_cast<T>(step.learning_rate);
  const auto scale = static_cast<T>(step.gradient_scale);
  parallel_for(elements_of(count, arrays), kUpdateBlock, [=](std::int64_t first, std::int64_t last) {
    for_each_part(count, arrays, first, last, [=](const SgdArrays<T>& a, std::int64_t begin, std::int64_t end) {
      const auto decay = static_cast<T>(a.weight_decay);
      const T* gradient = a.gradient;
      T *value = a.value, *velocity = a.velocity;
#pragma omp simd
      for (std::int64_t i = begin; i < end; ++i) {
        velocity[i] = momentum * velocity[i] + gradient[i] * scale + decay * value[i];
        value[i] -= rate * velocity[i];
      }
    });
  });
}

namespace {

/// Σ term(x) over all elements, by blocks.
template <class T, class Term>
void sum_over(std::int64_t count, const ConstArray<T>* arrays, const Term& term, double* partials, double* result, Mode mode) {
  const std::int64_t elements = elements_of(count, arrays);
  parallel_for(elements, kUpdateBlock, [=](std::int64_t first, std::int64_t last) {
    double sum = 0;
    for_each_part(count, arrays, first, last, [&](const ConstArray<T>& a, std::int64_t begin, std::int64_t end) {
      double part = 0;
#pragma omp simd reduction(+ : part)
      for (std::int64_t i = begin; i < end; ++i) part += term(a.data[i]);
      sum += part;
    });
    partials[first / kUpdateBlock] = sum;
  });
  double total = 0;
  for (std::int64_t block = 0; block * kUpdateBlock < elements; ++block) total += partials[block];
  put(*result, total, mode);
}

}  // namespace

template <class T>
void squared_norm(std::int64_t count, const ConstArray<T>* arrays, double* partials, double* sum, Mode mode) {
  const auto square = [](T x) { return static_cast<double>(x) * static_cast<double>(x); };
  sum_over(count, arrays, square, partials, sum, mode);
}

template <class T>
void count_non_finite(std::int64_t count, const ConstArray<T>* arrays, double* partials, double* number, Mode mode) {
  const auto one = [](T x) { return std::isfinite(x) ? 0.0 : 1.0; };
  sum_over(count, arrays, one, partials, number, mode);
}

template <class T>
void clip(std::int64_t count, const MutableArray<T>* arrays, const double* squared_norm, double max_norm) {
  const double norm = std::sqrt(*squared_norm);
  if (!std::isfinite(norm) || norm <= max_norm) return;
  const auto factor = static_cast<T>(max_norm / norm);
  parallel_for(elements_of(count, arrays), kUpdateBlock, [=](std::int64_t first, std::int64_t last) {
    for_each_part(count, arrays, first, last, [=](const MutableArray<T>& a, std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) a.data[i] *= factor;
    });
  });
}

template void adamw(const AdamW&, std::int64_t, const AdamWArrays<float>*);
template void adamw(const AdamW&, std::int64_t, const AdamWArrays<double>*);
template void sgd(const Sgd&, std::int64_t, const SgdArrays<float>*);
template void sgd(const Sgd&, std::int64_t, const SgdArrays<double>*);
template void squared_norm(std::int64_t, const ConstArray<float>*, double*, double*, Mode);
template void squared_norm(std::int64_t, const ConstArray<double>*, double*, double*, Mode);
template void count_non_finite(std::int64_t, const ConstArray<float>*, double*, double*, Mode);
template void count_non_finite(std::int64_t, const ConstArray<double>*, double*, double*, Mode);
template void clip(std::int64_t, const MutableArray<float>*, const double*, double);
template void clip(std::int64_t, const MutableArray<double>*, const double*, double);

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT
