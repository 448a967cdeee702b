#include "tapecache/ops/update.h"

#include <algorithm>
#include <utility>
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

void require_scalar(const char* op, const char* argument, const Tensor& found, DType dtype, Device device) {
  if (!found.defined()) return;
  if (found.numel() != 1 || found.dtype() != dtype || found.device() != device) {
    throw ShapeError(fmt::format("{}: {} is {}, expected a {} scalar on {}", op, argument, describe(found), name(dtype),
                                 to_string(device)));
  }
}

void require_late(const char* op, const LateNumbers& late, Device device) {
  require_scalar(op, "learning_rate", late.learning_rate, DType::kFloat64, device);
  require_scalar(op, "gradient_scale", late.gradient_scale, DType::kFloat64, device);
  require_scalar(op, "non_finite", late.non_finite, DType::kFloat64, device);
}

kernels::LateNumbers pointers(const LateNumbers& late) {
  const auto pointer = [](const Tensor& t) { return t.defined() ? t.data<double>() : nullptr; };
  return {pointer(late.learning_rate), pointer(late.gradient_scale), pointer(late.non_finite)};
}

}  // namespace

void adamw_update(const kernels::AdamW& given, std::span<AdamWParameter> parameters, const LateNumbers& late) {
  constexpr const char* kOp = "adamw_update";
  for (const AdamWParameter& p : parameters) {
    detail::require_floating(kOp, "value", p.value);
    require_same(kOp, "gradient", p.gradient, p.value);
    require_same(kOp, "m", p.m, p.value);
    require_same(kOp, "v", p.v, p.value);
    require_scalar(kOp, "steps", p.steps, DType::kInt64, p.value.device());
    if (p.steps.defined() != parameters[0].steps.defined()) {
      throw ValueError(fmt::format("{}: steps of some parameters are defined and of others not, expected all or none", kOp));
    }
    require_late(kOp, late, p.value.device());
  }
  kernels::AdamW step = given;
  step.late = pointers(late);
  const auto value_of = [](const AdamWParameter& p) -> const Tensor& { return p.value; };
  for_each_alike(parameters, value_of, [&](std::span<AdamWParameter* const> run) {
    dispatch_floating(kOp, run[0]->value.dtype(), [&]<class T>() {
      std::vector<kernels::AdamWArrays<T>> arrays;
      std::int64_t first = 0;
      for (AdamWParameter* p : run) {
        arrays.push_back({first, p->value.numel(), p->gradient.data<T>(), p->value.mutable_data<T>(),
                          p->m.mutable_data<T>(), p->v.mutable_data<T>(), p->weight_decay, p->correction1,
                          p->correction2, p->steps.defined() ? p->steps.mutable_data<std::int64_t>() : nullptr});
        first += p->value.numel();
      }
      kernels::find(&UpdateKernels<T>::adamw, kOp, run[0]->value.device())(
          step, static_cast<std::int64_t>(arrays.size()), arrays.data());
    });
  });
}

void sgd_update(const kernels::Sgd& given, std::span<SgdParameter> parameters, const LateNumbers& late) {
  constexpr const char* kOp = "sgd_update";
  for (const SgdParameter& p : parameters) {
    detail::require_floating(kOp, "value", p.value);
    require_same(kOp, "gradient", p.gradient, p.value);
    require_same(kOp, "velocity", p.velocity, p.value);
    require_late(kOp, late, p.value.device());
  }
  kernels::Sgd step = given;
  step.late = pointers(late);
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
      kernels::find(&UpdateKernels<T>::sgd, kOp, run[0]->value.device())(step, static_cast<std::int64_t>(arrays.size()),
                                                                         arrays.data());
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

/// f64 sums over all elements by a kernel of the table, one for each device, in the order of the tensors.
template <class Kernel>
std::vector<Tensor> sums_over(const char* op, std::span<const Tensor> tensors, const Kernel& kernel) {
  for (const Tensor& t : tensors) detail::require_floating(op, "tensor", t);
  std::vector<Tensor> sums;
  const auto itself = [](const Tensor& t) -> const Tensor& { return t; };
  for_each_alike(tensors, itself, [&](std::span<const Tensor* const> run) {
    const Device device = run[0]->device();
    std::vector<Tensor>::iterator sum = std::ranges::find_if(sums, [&](const Tensor& s) { return s.device() == device; });
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
  return sums;
}

Tensor only_sum(const char* op, std::span<const Tensor> tensors, std::vector<Tensor> sums) {
  if (sums.size() > 1) {
    throw DeviceError(fmt::format("{}: tensors are on {} and {}, expected one device", op, to_string(sums[0].device()),
                                  to_string(sums[1].device())));
  }
  if (!sums.empty()) return std::move(sums.front());
  return Tensor::zeros({}, DType::kFloat64, tensors.empty() ? Device::cpu() : tensors[0].device());
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

double squared_norm(std::span<const Tensor> tensors) {
  double total = 0;
  for (const Tensor& sum : sums_over("squared_norm", tensors, SquaredNorm{})) total += sum.item();
  return total;
}

Tensor sum_of_squares(std::span<const Tensor> tensors) {
  constexpr const char* kOp = "sum_of_squares";
  return only_sum(kOp, tensors, sums_over(kOp, tensors, SquaredNorm{}));
}

Tensor count_non_finite(std::span<const Tensor> tensors) {
  constexpr const char* kOp = "count_non_finite";
  return only_sum(kOp, tensors, sums_over(kOp, tensors, NonFinite{}));
}

void clip_to_norm(std::span<Tensor> tensors, const Tensor& squared_norm, double max_norm) {
  constexpr const char* kOp = "clip_to_norm";
  for (const Tensor& t : tensors) {
    detail::require_floating(kOp, "tensor", t);
    if (t.device() != squared_norm.device()) {
      throw DeviceError(fmt::format("{}: a tensor is on {}, expected {}", kOp, to_string(t.device()),
                                    to_string(squared_norm.device())));
    }
  }
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
                   arrays.data(), squared_norm, max_norm);
    });
  });
}

}  // namespace tapecache::ops
