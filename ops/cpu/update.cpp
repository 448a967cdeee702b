#include <cmath>
#include <vector>

#include "tapecache/ops/cpu/cpu_kernels.h"

namespace tapecache::kernels::cpu {

namespace {

constexpr std::int64_t kBlock = 16384;

}  // namespace

template <class T>
void adamw(const AdamW& step, std::int64_t n, const T* gradient, T* value, T* m, T* v) {
  const auto beta1 = static_cast<T>(step.beta1), beta2 = static_cast<T>(step.beta2);
  const auto rest1 = static_cast<T>(1 - step.beta1), rest2 = static_cast<T>(1 - step.beta2);
  const auto inverse1 = static_cast<T>(1 / step.correction1), inverse2 = static_cast<T>(1 / step.correction2);
  // Not value · (1 - rate · decay): that factor rounds to 1 or to a wrong decay where the product is below 1e-7.
  const auto decay = static_cast<T>(step.learning_rate * step.weight_decay);
  const auto rate = static_cast<T>(step.learning_rate), epsilon = static_cast<T>(step.epsilon);
  const auto scale = static_cast<T>(step.gradient_scale);
  parallel_for(n, kBlock, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const T g = gradient[i] * scale;
      m[i] = beta1 * m[i] + rest1 * g;
      v[i] = beta2 * v[i] + rest2 * g * g;
      value[i] -= decay * value[i] + rate * (m[i] * inverse1) / (std::sqrt(v[i] * inverse2) + epsilon);
    }
  });
}

template <class T>
void sgd(const Sgd& step, std::int64_t n, const T* gradient, T* value, T* velocity) {
  const auto momentum = static_cast<T>(step.momentum), decay = static_cast<T>(step.weight_decay);
  const auto rate = static_cast<T>(step.learning_rate), scale = static_cast<T>(step.gradient_scale);
  parallel_for(n, kBlock, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      velocity[i] = momentum * velocity[i] + gradient[i] * scale + decay * value[i];
      value[i] -= rate * velocity[i];
    }
  });
}

template <class T>
double squared_norm(std::int64_t n, const T* x) {
  std::vector<double> partial(static_cast<std::size_t>((n + kBlock - 1) / kBlock), 0.0);
  parallel_for(n, kBlock, [&](std::int64_t begin, std::int64_t end) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t i = begin; i < end; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    partial[static_cast<std::size_t>(begin / kBlock)] = sum;
  });
  double total = 0;
  for (double p : partial) total += p;
  return total;
}

template void adamw(const AdamW&, std::int64_t, const float*, float*, float*, float*);
template void adamw(const AdamW&, std::int64_t, const double*, double*, double*, double*);
template void sgd(const Sgd&, std::int64_t, const float*, float*, float*);
template void sgd(const Sgd&, std::int64_t, const double*, double*, double*);
template double squared_norm(std::int64_t, const float*);
template double squared_norm(std::int64_t, const double*);

}  // namespace tapecache::kernels::cpu
