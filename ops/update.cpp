#include "tapecache/ops/update.h"

#include <algorithm>
#include <vector>

#include <fmt/format.h>

#include "tapecache/core/op_scope.h"
#include "tapecache/ops/call.h"
#include "tapecache/ops/checks.h"

namespace tapecache::ops {

namespace {

using kernels::UnaryKernels;
using kernels::UpdateKernels;

void require_same(const char* op, const char* argument, const Tensor& found, const Tensor& value) {
  detail::require_alike(op, "value", value, argument, found);
  detail::require_shape(op, argument, found.shape(), value.shape());
}

/// Calls `body(run)` for each run of entries of one dtype and device, in order, leaving out those without elements;
/// `tensor_of(entry)` is what tells.
template <class Entry, class TensorOf, class Body>
void for_each_alike(std::span<Entry> entries, const TensorOf& tensor_of, const Body& body) {
  std::vector<Entry*> run;
  const auto finish = [&] {
    if (!run.empty()) body(run);
    run.clear();
  };
  for (Entry& entry : entries) {
    const Tensor& tensor = tensor_of(entry);
    if (tensor.numel() == 0) continue;
    if (!run.empty()) {
      const Tensor& before = tensor_of(*run.back());
      if (before.dtype() != tensor.dtype() || before.device() != tensor.device()) finish();
    }
    run.push_back(&entry);
  }
  finish();
}

/// Throws DeviceError for a number that another device holds.
void require_at(const char* op, const char* argument, const Number& found, Device device) {
  if (!found.is_on_device() || found.tensor().device() == device) return;
  throw DeviceError(fmt::format("{}: {} is {}, expected a float64 scalar on {}, or a number of the host", op, argument,
                                describe(found.tensor()), to_string(device)));
}

void require_numbers(const char* op, const StepNumbers& numbers, Device device) {
  require_at(op, "learning_rate", numbers.learning_rate, device);
  require_at(op, "gradient_scale", numbers.gradient_scale, device);
  require_at(op, "skip_if", numbers.skip_if, device);
}

/// Throws ShapeError or DTypeError unless the count is an i64 scalar, DeviceError for one that is out of reach.
void require_count(const char* op, const Tensor& steps, const StepNumbers& numbers, Device device) {
  if (!steps.defined() || steps.numel() != 1) {
    throw ShapeError(fmt::format("{}: steps is {}, expected an int64 scalar", op, describe(steps)));
  }
  if (steps.dtype() != DType::kInt64) {
    throw DTypeError(fmt::format("{}: steps is {}, expected an int64 scalar", op, describe(steps)));
  }
  const bool host_counts = steps.device().is_cpu() && !numbers.skip_if.is_on_device();
  if (steps.device() == device || host_counts) return;
  throw DeviceError(
      fmt::format("{}: steps is {}, expected an int64 scalar on {}", op, describe(steps), to_string(device)));
}

tapecache::detail::KernelNumber<double> for_kernel(const Number& number) {
  if (!number.is_on_device()) return number.item();
  return {0, number.tensor().data<double>()};
}

kernels::StepNumbers for_kernel(const StepNumbers& numbers) {
  return {for_kernel(numbers.learning_rate), for_kernel(numbers.gradient_scale), for_kernel(numbers.skip_if)};
}

bool is_skipped(const StepNumbers& numbers) { return !numbers.skip_if.is_on_device() && numbers.skip_if.item() != 0; }

}  // namespace

void adamw_update(const StepNumbers& numbers, const kernels::AdamW& step, std::span<AdamWParameter> parameters) {
  constexpr const char* kOp = "adamw_update";
  for (const AdamWParameter& p : parameters) {
    detail::require_floating(kOp, "value", p.value);
    require_same(kOp, "gradient", p.gradient, p.value);
    require_same(kOp, "m", p.m, p.value);
    require_same(kOp, "v", p.v, p.value);
    require_count(kOp, p.steps, numbers, p.value.device());
    require_numbers(kOp, numbers, p.value.device());
  }
  if (is_skipped(numbers)) return;
  const auto value_of = [](const AdamWParameter& p) -> const Tensor& { return p.value; };
  for_each_alike(parameters, value_of, [&](std::span<AdamWParameter* const> run) {
    const Device device = run[0]->value.device();
    dispatch_floating(kOp, run[0]->value.dtype(), [&]<class T>() {
      std::vector<kernels::AdamWArrays<T>> arrays;
      std::int64_t first = 0;
      for (AdamWParameter* p : run) {
        const bool counts_there = p->steps.device() == device;
        arrays.push_back({first, p->value.numel(), p->gradient.data<T>(), p->value.mutable_data<T>(),
                          p->m.mutable_data<T>(), p->v.mutable_data<T>(), p->weight_decay,
                          counts_there ? 0 : *p->steps.data<std::int64_t>(),
                          counts_there ? p->steps.mutable_data<std::int64_t>() : nullptr});
        first += p->value.numel();
      }
      kernels::find(&UpdateKernels<T>::adamw, kOp, device)(for_kernel(numbers), step,
                                                           static_cast<std::int64_t>(arrays.size()), arrays.data());
    });
    for (AdamWParameter* p : run) {
      if (p->steps.device() != device) ++*p->steps.mutable_data<std::int64_t>();
    }
  });
}

void sgd_update(const StepNumbers& numbers, const kernels::Sgd& step, std::span<SgdParameter> parameters) {
  constexpr const char* kOp = "sgd_update";
  for (const SgdParameter& p : parameters) {
    detail::require_floating(kOp, "value", p.value);
    require_same(kOp, "gradient", p.gradient, p.value);
    require_same(kOp, "velocity", p.velocity, p.value);
    require_numbers(kOp, numbers, p.value.device());
  }
  if (is_skipped(numbers)) return;
  const auto value_of = [](const SgdParameter& p) -> const Tensor& { return p.value; };
  for_each_alike(parameters, value_of, [&](std::span<SgdParameter* const> run) {
    dispatch_floating(kOp, run[0]->value.dtype(), [&]<class T>() {
      std::vector<kernels::SgdArrays<T>> arrays;
      std::int64_t first = 0;
      for (SgdParameter* p : run) {
        arrays.push_back({first, p->value.numel(), p->gradient.data<T>(), p->value.mutable_data<T>(),
                          p->velocity.mutable_data<T>(), p->weight_decay});
        first += p->value.numel();
      }
      kernels::find(&UpdateKernels<T>::sgd, kOp, run[0]->value.device())(
          for_kernel(numbers), step, static_cast<std::int64_t>(arrays.size()), arrays.data());
    });
  });
}

void scale_in_place(Tensor& tensor, double factor) {
  constexpr const char* kOp = "scale_in_place";
  detail::require_floating(kOp, "tensor", tensor);
  dispatch_floating(kOp, tensor.dtype(), [&]<class T>() {
    T* p = tensor.mutable_data<T>();
    kernels::find(&UnaryKernels<T>::unary, kOp, tensor.device())(kernels::UnaryOp::kScale, factor, 0, tensor.numel(), p,
                                                                 p);
  });
}

namespace {

/// The f64 sum over all elements by a kernel of the table; one for each device is taken, in the order of the tensors.
template <class Kernel>
Number sum_over(const char* op, std::span<const Tensor> tensors, const Kernel& kernel) {
  for (const Tensor& t : tensors) detail::require_floating(op, "tensor", t);
  std::vector<Tensor> sums;
  const auto itself = [](const Tensor& t) -> const Tensor& { return t; };
  for_each_alike(tensors, itself, [&](std::span<const Tensor* const> run) {
    const Device device = run[0]->device();
    std::vector<Tensor>::iterator sum =
        std::ranges::find_if(sums, [&](const Tensor& s) { return s.device() == device; });
    const kernels::Mode mode = sum == sums.end() ? kernels::Mode::kWrite : kernels::Mode::kAccumulate;
    if (sum == sums.end()) sum = sums.insert(sum, Tensor::empty({}, DType::kFloat64, device));
    dispatch_floating(op, run[0]->dtype(), [&]<class T>() {
      std::vector<kernels::ConstArray<T>> arrays;
      std::int64_t first = 0;
      for (const Tensor* t : run) {
        arrays.push_back({first, t->numel(), t->data<T>()});
        first += t->numel();
      }
      const std::int64_t blocks = (first + kernels::kUpdateBlock - 1) / kernels::kUpdateBlock;
      Tensor partials = Tensor::empty({blocks}, DType::kFloat64, device);
      detail::call(op, device, kernel.template of<T>(), static_cast<std::int64_t>(arrays.size()), arrays.data(),
                   partials, sum->mutable_data<double>(), mode);
    });
  });
  if (sums.size() == 1) return sums.front();
  double total = 0;
  for (const Tensor& sum : sums) total += sum.item();
  return total;
}

struct SquaredNorm {
  template <class T>
  static constexpr auto of() {
    return &UpdateKernels<T>::squared_norm;
  }
};

struct NonFinite {
  template <class T>
  static constexpr auto of() {
    return &UpdateKernels<T>::count_non_finite;
  }
};

}  // namespace

Number squared_norm(std::span<const Tensor> tensors) { return sum_over("squared_norm", tensors, SquaredNorm{}); }

Number count_non_finite(std::span<const Tensor> tensors) { return sum_over("count_non_finite", tensors, NonFinite{}); }

void clip_to_norm(std::span<Tensor> tensors, const Number& squared_norm, double max_norm) {
  constexpr const char* kOp = "clip_to_norm";
  for (const Tensor& t : tensors) {
    detail::require_floating(kOp, "tensor", t);
    if (t.device() != tensors[0].device()) {
      throw DeviceError(fmt::format("{}: tensors are on {} and {}, expected one device", kOp,
                                    to_string(tensors[0].device()), to_string(t.device())));
    }
  }
  if (tensors.empty()) return;
  const Tensor squared = squared_norm.on(tensors[0].device());
  const auto itself = [](const Tensor& t) -> const Tensor& { return t; };
  for_each_alike(tensors, itself, [&](std::span<Tensor* const> run) {
    dispatch_floating(kOp, run[0]->dtype(), [&]<class T>() {
      std::vector<kernels::MutableArray<T>> arrays;
      std::int64_t first = 0;
      for (Tensor* t : run) {
        arrays.push_back({first, t->numel(), t->mutable_data<T>()});
        first += t->numel();
      }
      detail::call(kOp, run[0]->device(), &UpdateKernels<T>::clip, static_cast<std::int64_t>(arrays.size()),
                   arrays.data(), squared, max_norm);
    });
  });
}

}  // namespace tapecache::ops
