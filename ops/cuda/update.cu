#include <cmath>
#include <span>
#include <vector>

#include "tapecache/ops/cuda/cuda_kernels.h"
#include "tapecache/ops/cuda/faults.h"
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

/// Whether an update is to change anything: not where a check of values has failed, so that the gradients are of
/// something that the host did not mean.
__device__ inline bool is_wanted(const StepNumbers& numbers, const int* fault) {
  return *fault == 0 && numbers.skip_if.now() == 0;
}

template <class Arrays, class Step>
__global__ void update_kernel(std::int64_t elements, std::int64_t count, const Arrays* arrays, Step step,
                              StepNumbers numbers, const int* fault) {
  if (!is_wanted(numbers, fault)) return;
  step.set(numbers.learning_rate.now(), numbers.gradient_scale.now());
  for (std::int64_t block = blockIdx.x; block * kUpdateBlock < elements; block += gridDim.x) {
    for_each_in_block(block, count, arrays, step);
  }
}

/// `prepare(arrays there, count)` may queue what is to be done to them first.
template <class Arrays, class Step, class Prepare>
void update(const std::vector<Arrays>& arrays, const Step& step, const StepNumbers& numbers, const Prepare& prepare) {
  const auto count = static_cast<std::int64_t>(arrays.size());
  const std::int64_t elements = elements_of(count, arrays.data());
  const Uploaded<Arrays> there{std::span<const Arrays>(arrays)};
  prepare(there.data(), count);
  launch(update_kernel<Arrays, Step>, grid_of_update(elements), elements, count, there.data(), step, numbers,
         current_faults().raised);
}

/// AdamWArrays with its numbers as the kernel takes them.
template <class T>
struct AdamWPart {
  std::int64_t first, size;
  const T* gradient;
  T *value, *m, *v;
  T decay, inverse1, inverse2;
  double weight_decay;
  std::int64_t* steps;
};

/// Takes the numbers that follow from the learning rate, and, where the device counts it, those from the step.
template <class T>
__global__ void prepare_step_kernel(std::int64_t count, AdamWPart<T>* arrays, AdamW step, StepNumbers numbers,
                                    const int* fault) {
  if (!is_wanted(numbers, fault)) return;
  const double rate = numbers.learning_rate.now();
  for (std::int64_t i = thread_index(); i < count; i += thread_count()) {
    AdamWPart<T>& a = arrays[i];
    a.decay = static_cast<T>(rate * a.weight_decay);
    if (!a.steps) continue;
    const auto t = static_cast<double>(++*a.steps);
    a.inverse1 = static_cast<T>(1 / (1 - std::pow(step.beta1, t)));
    a.inverse2 = static_cast<T>(1 / (1 - std::pow(step.beta2, t)));
  }
}

template <class T>
struct AdamWStep {
  T beta1, beta2, rest1, rest2, epsilon, rate, scale;

  __device__ void set(double learning_rate, double gradient_scale) {
    rate = static_cast<T>(learning_rate);
    scale = static_cast<T>(gradient_scale);
  }

  __device__ void operator()(const AdamWPart<T>& a, std::int64_t i) const {
    const T g = a.gradient[i] * scale, m = beta1 * a.m[i] + rest1 * g, v = beta2 * a.v[i] + rest2 * g * g,
            value = a.value[i];
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

  __device__ void set(double learning_rate, double gradient_scale) {
    rate = static_cast<T>(learning_rate);
    scale = static_cast<T>(gradient_scale);
  }

  __device__ void operator()(const SgdPart<T>& a, std::int64_t i) const {
    const T value = a.value[i], velocity = momentum * a.velocity[i] + a.gradient[i] * scale + a.decay * value;
    a.velocity[i] = velocity;
    a.value[i] = value - rate * velocity;
  }
};

struct Square {
  template <class T>
  __device__ static double term(T x) {
    return static_cast<double>(x) * static_cast<double>(x);
  }
};

struct NonFinite {
  template <class T>
  __device__ static double term(T x) {
    return std::isfinite(x) ? 0 : 1;
  }
};

template <class Term>
struct AddTerm {
  double& sum;
  template <class T>
  __device__ void operator()(const ConstArray<T>& a, std::int64_t i) const {
    sum += Term::term(a.data[i]);
  }
};

template <class T, class Term>
__global__ void sum_over_kernel(std::int64_t elements, std::int64_t count, const ConstArray<T>* arrays,
                                double* partials) {
  for (std::int64_t block = blockIdx.x; block * kUpdateBlock < elements; block += gridDim.x) {
    double sum = 0;
    for_each_in_block(block, count, arrays, AddTerm<Term>{sum});
    sum = block_sum(sum);
    if (threadIdx.x == 0) partials[block] = sum;
  }
}

struct Partial {
  const double* partials;
  __device__ double operator()(std::int64_t, std::int64_t k) const { return partials[k]; }
};

/// Σ Term::term(x) over all elements.
template <class Term, class T>
void sum_over(std::int64_t count, const ConstArray<T>* arrays, double* partials, double* sum, Mode mode) {
  const std::int64_t elements = elements_of(count, arrays);
  const Uploaded<ConstArray<T>> there{std::span(arrays, static_cast<std::size_t>(count))};
  launch(sum_over_kernel<T, Term>, grid_of_update(elements), elements, count, there.data(), partials);
  sum_terms<Adjacent::kTerms>(1, divide_up(elements, kUpdateBlock), Partial{partials}, 1.0, sum, mode);
}

template <class T>
__global__ void clip_kernel(std::int64_t elements, std::int64_t count, const MutableArray<T>* arrays,
                            const double* squared_norm, double max_norm) {
  const double norm = std::sqrt(*squared_norm);
  if (!std::isfinite(norm) || norm <= max_norm) return;
  const T factor = static_cast<T>(max_norm / norm);
  for (std::int64_t block = blockIdx.x; block * kUpdateBlock < elements; block += gridDim.x) {
    for_each_in_block(block, count, arrays, [=](const MutableArray<T>& a, std::int64_t i) { a.data[i] *= factor; });
  }
}

template <class T>
void adamw(const StepNumbers& numbers, const AdamW& step, std::int64_t count, const AdamWArrays<T>* arrays) {
  std::vector<AdamWPart<T>> parts;
  bool prepares = numbers.learning_rate.on_device;
  for (const AdamWArrays<T>& a : std::span(arrays, static_cast<std::size_t>(count))) {
    const auto t = static_cast<double>(a.steps + 1);
    parts.push_back({a.first, a.size, a.gradient, a.value, a.m, a.v,
                     static_cast<T>(numbers.learning_rate.value * a.weight_decay),
                     static_cast<T>(1 / (1 - std::pow(step.beta1, t))),
                     static_cast<T>(1 / (1 - std::pow(step.beta2, t))), a.weight_decay, a.steps_on_device});
    prepares = prepares || a.steps_on_device;
  }
  const AdamWStep<T> own{static_cast<T>(step.beta1),
                         static_cast<T>(step.beta2),
                         static_cast<T>(1 - step.beta1),
                         static_cast<T>(1 - step.beta2),
                         static_cast<T>(step.epsilon),
                         0,
                         0};
  update(parts, own, numbers, [&](AdamWPart<T>* there, std::int64_t number) {
    if (prepares)
      launch(prepare_step_kernel<T>, grid_for(number), number, there, step, numbers, current_faults().raised);
  });
}

template <class T>
void sgd(const StepNumbers& numbers, const Sgd& step, std::int64_t count, const SgdArrays<T>* arrays) {
  std::vector<SgdPart<T>> parts;
  for (const SgdArrays<T>& a : std::span(arrays, static_cast<std::size_t>(count))) {
    parts.push_back({a.first, a.size, a.gradient, a.value, a.velocity, static_cast<T>(a.weight_decay)});
  }
  update(parts, SgdStep<T>{static_cast<T>(step.momentum), 0, 0}, numbers, [](SgdPart<T>*, std::int64_t) {});
}

template <class T>
void squared_norm(std::int64_t count, const ConstArray<T>* arrays, double* partials, double* sum, Mode mode) {
  sum_over<Square>(count, arrays, partials, sum, mode);
}

template <class T>
void count_non_finite(std::int64_t count, const ConstArray<T>* arrays, double* partials, double* number, Mode mode) {
  sum_over<NonFinite>(count, arrays, partials, number, mode);
}

template <class T>
void clip(std::int64_t count, const MutableArray<T>* arrays, const double* squared_norm, double max_norm) {
  const std::int64_t elements = elements_of(count, arrays);
  const Uploaded<MutableArray<T>> there{std::span(arrays, static_cast<std::size_t>(count))};
  launch(clip_kernel<T>, grid_of_update(elements), elements, count, there.data(), squared_norm, max_norm);
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

}  // namespace tapecache::kernels::cuda
