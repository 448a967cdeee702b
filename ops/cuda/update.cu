#include <cmath>
#include <span>
#include <vector>

#include "tapecache/ops/cuda/cuda_kernels.h"
#include "tapecache/ops/cuda/sum_terms.cuh"
#include "tapecache/ops/cuda/transfer.h"

namespace tapecache::kernels::cuda {

namespace {

template <class Arrays>
std::int64_t elements_of(std::int64_t count, const Arrays* arrays) {
  return count == 0 ? 0 : arrays[count - 1].first + arrays[count - 1].size;
}

Grid grid_of_update(std::int64_t elements) { return grid_of_rows(divide_up(elements, kUpdateBlock)); }

/// use(array, i) for those elements i of the arrays that lie in update block `block` of all of them together.
template <class Arrays, class Use>
__device__ void for_each_in_block(std::int64_t block, std::int64_t count, const Arrays* arrays, const Use& use) {
  const std::int64_t begin = block * kUpdateBlock, end = begin + kUpdateBlock;
  std::int64_t at = 0, after = count;  // arrays[at] is the last one to begin at `begin` or before
  while (after - at > 1) {
    const std::int64_t middle = (at + after) / 2;
    if (arrays[middle].first <= begin) at = middle;
    else after = middle;
  }
  for (; at < count && arrays[at].first < end; ++at) {
    const Arrays array = arrays[at];
    const std::int64_t from = begin > array.first ? begin - array.first : 0;
    const std::int64_t to = end - array.first < array.size ? end - array.first : array.size;
    for (std::int64_t i = from + threadIdx.x; i < to; i += blockDim.x) use(array, i);
  }
}

template <class Arrays, class Step>
__global__ void update_kernel(std::int64_t elements, std::int64_t count, const Arrays* arrays, Step step) {
  for (std::int64_t block = blockIdx.x; block * kUpdateBlock < elements; block += gridDim.x) {
    for_each_in_block(block, count, arrays, step);
  }
}

template <class Arrays, class Step>
void update(const std::vector<Arrays>& arrays, const Step& step) {
  const auto count = static_cast<std::int64_t>(arrays.size());
  const std::int64_t elements = elements_of(count, arrays.data());
  const Uploaded<Arrays> there{std::span<const Arrays>(arrays)};
  launch(update_kernel<Arrays, Step>, grid_of_update(elements), elements, count, there.data(), step);
}

/// AdamWArrays with its numbers as the kernel takes them.
template <class T>
struct AdamWPart {
  std::int64_t first, size;
  const T* gradient;
  T *value, *m, *v;
  T decay, inverse1, inverse2;
};

template <class T>
struct AdamWStep {
  T beta1, beta2, rest1, rest2, rate, epsilon, scale;

  __device__ void operator()(const AdamWPart<T>& a, std::int64_t i) const {
    const T g = a.gradient[i] * scale, m = beta1 * a.m[i] + rest1 * g, v = beta2 * a.v[i] + rest2 * g * g, value = a.value[i];
    a.m[i] = m;
    a.v[i] = v;
    a.value[i] = value - (a.decay * value + rate * (m * a.inverse1) / (std::sqrt(v * a.inverse2) + epsilon));
  }
};

template <class T>
struct SgdPart {
  std::int64_t first, size;
  const T* gradient;
  T *value, *velocity;
  T decay;
};

template <class T>
struct SgdStep {
  T momentum, rate, scale;

  __device__ void operator()(const SgdPart<T>& a, std::int64_t i) const {
    const T value = a.value[i], velocity = momentum * a.velocity[i] + a.gradient[i] * scale + a.decay * value;
    a.velocity[i] = velocity;
    a.value[i] = value - rate * velocity;
  }
};

struct AddSquare {
  double& sum;
  template <class T>
  __device__ void operator()(const ConstArray<T>& a, std::int64_t i) const {
    const auto x = static_cast<double>(a.data[i]);
    sum += x * x;
  }
};

template <class T>
__global__ void squared_norm_kernel(std::int64_t elements, std::int64_t count, const ConstArray<T>* arrays, double* partials) {
  for (std::int64_t block = blockIdx.x; block * kUpdateBlock < elements; block += gridDim.x) {
    double sum = 0;
    for_each_in_block(block, count, arrays, AddSquare{sum});
    sum = block_sum(sum);
    if (threadIdx.x == 0) partials[block] = sum;
  }
}

struct Partial {
  const double* partials;
  __device__ double operator()(std::int64_t, std::int64_t k) const { return partials[k]; }
};

}  // namespace

template <class T>
void adamw(const AdamW& step, std::int64_t count, const AdamWArrays<T>* arrays) {
  std::vector<AdamWPart<T>> parts;
  for (const AdamWArrays<T>& a : std::span(arrays, static_cast<std::size_t>(count))) {
    parts.push_back({a.first, a.size, a.gradient, a.value, a.m, a.v, static_cast<T>(step.learning_rate * a.weight_decay),
                     static_cast<T>(1 / a.correction1), static_cast<T>(1 / a.correction2)});
  }
  update(parts, AdamWStep<T>{static_cast<T>(step.beta1), static_cast<T>(step.beta2), static_cast<T>(1 - step.beta1),
                             static_cast<T>(1 - step.beta2), static_cast<T>(step.learning_rate),
                             static_cast<T>(step.epsilon), static_cast<T>(step.gradient_scale)});
}

template <class T>
void sgd(const Sgd& step, std::int64_t count, const SgdArrays<T>* arrays) {
  std::vector<SgdPart<T>> parts;
  for (const SgdArrays<T>& a : std::span(arrays, static_cast<std::size_t>(count))) {
    parts.push_back({a.first, a.size, a.gradient, a.value, a.velocity, static_cast<T>(a.weight_decay)});
  }
  update(parts, SgdStep<T>{static_cast<T>(step.momentum), static_cast<T>(step.learning_rate),
                           static_cast<T>(step.gradient_scale)});
}

template <class T>
double squared_norm(std::int64_t count, const ConstArray<T>* arrays, double* partials) {
  const std::int64_t elements = elements_of(count, arrays);
  if (elements == 0) return 0;
  const Uploaded<ConstArray<T>> there{std::span(arrays, static_cast<std::size_t>(count))};
  launch(squared_norm_kernel<T>, grid_of_update(elements), elements, count, there.data(), partials);
  const Scratch<double> total(1);
  sum_terms(1, divide_up(elements, kUpdateBlock), Adjacent::kTerms, Partial{partials}, 1.0, total.data(), Mode::kWrite);
  return fetch(total.data());
}

template void adamw(const AdamW&, std::int64_t, const AdamWArrays<float>*);
template void adamw(const AdamW&, std::int64_t, const AdamWArrays<double>*);
template void sgd(const Sgd&, std::int64_t, const SgdArrays<float>*);
template void sgd(const Sgd&, std::int64_t, const SgdArrays<double>*);
template double squared_norm(std::int64_t, const ConstArray<float>*, double*);
template double squared_norm(std::int64_t, const ConstArray<double>*, double*);

}  // namespace tapecache::kernels::cuda
