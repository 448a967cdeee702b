#include <algorithm>
#include <cmath>

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

}  // namespace

template <class T>
void adamw(const AdamW& step, std::int64_t count, const AdamWArrays<T>* arrays) {
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
void sgd(const Sgd& step, std::int64_t count, const SgdArrays<T>* arrays) {
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

template <class T>
double squared_norm(std::int64_t count, const ConstArray<T>* arrays, double* partials) {
  const std::int64_t elements = elements_of(count, arrays);
  parallel_for(elements, kUpdateBlock, [=](std::int64_t first, std::int64_t last) {
    double sum = 0;
    for_each_part(count, arrays, first, last, [&](const ConstArray<T>& a, std::int64_t begin, std::int64_t end) {
      double part = 0;
#pragma omp simd reduction(+ : part)
      for (std::int64_t i = begin; i < end; ++i) part += static_cast<double>(a.data[i]) * static_cast<double>(a.data[i]);
      sum += part;
    });
    partials[first / kUpdateBlock] = sum;
  });
  double total = 0;
  for (std::int64_t block = 0; block * kUpdateBlock < elements; ++block) total += partials[block];
  return total;
}

template void adamw(const AdamW&, std::int64_t, const AdamWArrays<float>*);
template void adamw(const AdamW&, std::int64_t, const AdamWArrays<double>*);
template void sgd(const Sgd&, std::int64_t, const SgdArrays<float>*);
template void sgd(const Sgd&, std::int64_t, const SgdArrays<double>*);
template double squared_norm(std::int64_t, const ConstArray<float>*, double*);
template double squared_norm(std::int64_t, const ConstArray<double>*, double*);

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT
