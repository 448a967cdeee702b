#include "tapecache/ops/update.h"

#include <vector>

#include "tapecache/core/op_scope.h"
#include "tapecache/ops/checks.h"

namespace tapecache::ops {

namespace {

using kernels::KernelTable;

void require_same(const char* op, const char* argument, const Tensor& found, const Tensor& value) {
  detail::require_alike(op, value, argument, found);
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

}  // namespace

void adamw_update(const kernels::AdamW& step, std::span<AdamWParameter> parameters) {
  constexpr const char* kOp = "adamw_update";
  for (const AdamWParameter& p : parameters) {
    detail::require_floating(kOp, "value", p.value);
    require_same(kOp, "gradient", p.gradient, p.value);
    require_same(kOp, "m", p.m, p.value);
    require_same(kOp, "v", p.v, p.value);
  }
  const auto value_of = [](const AdamWParameter& p) -> const Tensor& { return p.value; };
  for_each_alike(parameters, value_of, [&](std::span<AdamWParameter* const> run) {
    dispatch_floating(kOp, run[0]->value.dtype(), [&]<class T>() {
      std::vector<kernels::AdamWArrays<T>> arrays;
      std::int64_t first = 0;
      for (AdamWParameter* p : run) {
        arrays.push_back({first, p->value.numel(), p->gradient.data<T>(), p->value.mutable_data<T>(),
                          p->m.mutable_data<T>(), p->v.mutable_data<T>(), p->weight_decay, p->correction1,
                          p->correction2});
        first += p->value.numel();
      }
      kernels::find(&KernelTable<T>::adamw, kOp, run[0]->value.device())(
          step, static_cast<std::int64_t>(arrays.size()), arrays.data());
    });
  });
}

void sgd_update(const kernels::Sgd& step, std::span<SgdParameter> parameters) {
  constexpr const char* kOp = "sgd_update";
  for (const SgdParameter& p : parameters) {
    detail::require_floating(kOp, "value", p.value);
    require_same(kOp, "gradient", p.gradient, p.value);
    require_same(kOp, "velocity", p.velocity, p.value);
  }
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
      kernels::find(&KernelTable<T>::sgd, kOp, run[0]->value.device())(
          step, static_cast<std::int64_t>(arrays.size()), arrays.data());
    });
  });
}

void scale_in_place(Tensor& tensor, double factor) {
  constexpr const char* kOp = "scale_in_place";
  detail::require_floating(kOp, "tensor", tensor);
  dispatch_floating(kOp, tensor.dtype(), [&]<class T>() {
    T* p = tensor.mutable_data<T>();
    kernels::find(&KernelTable<T>::unary, kOp, tensor.device())(kernels::UnaryOp::kScale, factor, 0, tensor.numel(), p,
                                                                p);
  });
}

double squared_norm(std::span<const Tensor> tensors) {
  constexpr const char* kOp = "squared_norm";
  for (const Tensor& t : tensors) detail::require_floating(kOp, "tensor", t);
  double total = 0;
  const auto itself = [](const Tensor& t) -> const Tensor& { return t; };
  for_each_alike(tensors, itself, [&](std::span<const Tensor* const> run) {
    dispatch_floating(kOp, run[0]->dtype(), [&]<class T>() {
      std::vector<kernels::ConstArray<T>> arrays;
      std::int64_t first = 0;
      for (const Tensor* t : run) {
        arrays.push_back({first, t->numel(), t->data<T>()});
        first += t->numel();
      }
      const std::int64_t blocks = (first + kernels::kUpdateBlock - 1) / kernels::kUpdateBlock;
      Tensor partials = Tensor::empty({blocks}, DType::kFloat64, run[0]->device());
      total += kernels::find(&KernelTable<T>::squared_norm, kOp, run[0]->device())(
          static_cast<std::int64_t>(arrays.size()), arrays.data(), partials.mutable_data<double>());
    });
  });
  return total;
}

}  // namespace tapecache::ops
