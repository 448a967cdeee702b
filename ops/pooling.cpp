#include "tapecache/ops/reduce.h"

#include <fmt/format.h>

#include "tapecache/core/op_scope.h"
#include "tapecache/core/value_checks.h"
#include "tapecache/ops/call.h"
#include "tapecache/ops/checks.h"
#include "tapecache/ops/tokens.h"

namespace tapecache::ops {

namespace {

using kernels::PoolingKernels;

struct Tokens {
  std::int64_t batch, tokens, width;
  Shape pooled() const { return {batch, width}; }
};

Tokens checked_tokens(const char* op, const Variable& x, const Tensor& valid) {
  detail::require_floating(op, "x", x, 3);
  if (x.rank() != 3 || x.size(1) == 0) {
    throw ShapeError(fmt::format("{}: x has shape {}, expected [batch, tokens, width] with at least one token", op,
                                 to_string(x.shape())));
  }
  if (valid.defined()) detail::require_mask(op, "valid", valid, {x.size(0), x.size(1)}, x.device());
  return {x.size(0), x.size(1), x.size(2)};
}

void require_valid_tokens(const char* op, const Tensor& valid) {
  require_true_in_each_row(valid, {fmt::format("{}: sample {{position}} has no valid token", op)});
}

/// The place of the first valid token in each row, and, where there are ids (i64), of that id; -1 where there is none.
Tensor first_fitting(const char* op, const Tensor& valid, const Tensor& ids, std::int64_t id) {
  const Tensor& given = valid.defined() ? valid : ids;
  Tensor index = Tensor::empty({given.size(0)}, DType::kInt64, given.device());
  detail::call(op, given.device(), &PoolingKernels<float>::first_token, given.size(0), given.size(1), valid, ids, id,
               index);
  return index;
}

Variable take_token(const char* op, const Variable& x, const Tensor& index) {
  const auto [batch, tokens, width] = checked_tokens(op, x, {});
  const Tensor wide = detail::checked_indices(op, "index", index, tokens, x.device());
  detail::require_shape(op, "index", index.shape(), {batch});
  Tensor y = Tensor::empty({batch, width}, x.dtype(), x.device());
  dispatch_floating(op, x.dtype(), [&, batch = batch, tokens = tokens, width = width]<class T>() {
    detail::call(op, x.device(), &PoolingKernels<T>::select_token, batch, tokens, width, wide, x, y);
  });
  return record(op, std::move(y), {x}, {wide}, [op, batch = batch, tokens = tokens, width = width](Backward& ctx) {
    const Tensor& dy = ctx.output_gradient();
    GradientTarget dx = ctx.gradient(0);
    dispatch_floating(op, dy.dtype(), [&]<class T>() {
      detail::call(op, dy.device(), &PoolingKernels<T>::select_token_backward, batch, tokens, width, ctx.saved(0), dy,
                   dx, dx);
    });
  });
}

}  // namespace

Variable mean_pool(const Variable& x, const Tensor& valid) {
  constexpr const char* kOp = "mean_pool";
  const OpScope scope(kOp);
  const Tokens t = checked_tokens(kOp, x, valid);
  Tensor y = Tensor::empty(t.pooled(), x.dtype(), x.device());
  dispatch_floating(kOp, x.dtype(), [&]<class T>() {
    detail::call(kOp, x.device(), &PoolingKernels<T>::mean_pool, t.batch, t.tokens, t.width, x, valid, y);
  });
  return record(kOp, std::move(y), {x}, {valid}, [=](Backward& ctx) {
    // dx = dy / (valid tokens), 0 for padding
    const Tensor& dy = ctx.output_gradient();
    GradientTarget dx = ctx.gradient(0);
    dispatch_floating(kOp, dy.dtype(), [&]<class T>() {
      detail::call(kOp, dy.device(), &PoolingKernels<T>::mean_pool_backward, t.batch, t.tokens, t.width, ctx.saved(0),
                   dy, dx, dx);
    });
  });
}

Variable max_pool(const Variable& x, const Tensor& valid) {
  constexpr const char* kOp = "max_pool";
  const OpScope scope(kOp);
  const Tokens t = checked_tokens(kOp, x, valid);
  Tensor y = Tensor::empty(t.pooled(), x.dtype(), x.device());
  Tensor argmax = Tensor::empty(t.pooled(), DType::kInt64, x.device());
  dispatch_floating(kOp, x.dtype(), [&]<class T>() {
    detail::call(kOp, x.device(), &PoolingKernels<T>::max_pool, t.batch, t.tokens, t.width, x, valid, y, argmax);
  });
  return record(kOp, std::move(y), {x}, {argmax}, [=](Backward& ctx) {
    const Tensor& dy = ctx.output_gradient();
    GradientTarget dx = ctx.gradient(0);
    dispatch_floating(kOp, dy.dtype(), [&]<class T>() {
      detail::call(kOp, dy.device(), &PoolingKernels<T>::max_pool_backward, t.batch, t.tokens, t.width, ctx.saved(0),
                   dy, dx, dx);
    });
  });
}

Variable select_token(const Variable& x, const Tensor& index) {
  const OpScope scope("select_token");
  return take_token("select_token", x, index);
}

Variable cls_pool(const Variable& x, const Tensor& valid) {
  constexpr const char* kOp = "cls_pool";
  const OpScope scope(kOp);
  const Tokens t = checked_tokens(kOp, x, valid);
  if (!valid.defined()) return take_token(kOp, x, Tensor::zeros({t.batch}, DType::kInt64));
  require_valid_tokens(kOp, valid);
  return take_token(kOp, x, first_fitting(kOp, valid, {}, 0));
}

Variable last_token_pool(const Variable& x, const Tensor& valid) {
  constexpr const char* kOp = "last_token_pool";
  const OpScope scope(kOp);
  const Tokens t = checked_tokens(kOp, x, valid);
  if (!valid.defined()) {
    return take_token(kOp, x, Tensor::full({t.batch}, static_cast<double>(t.tokens - 1), DType::kInt64));
  }
  require_valid_tokens(kOp, valid);
  Tensor index = Tensor::empty({t.batch}, DType::kInt64, x.device());
  dispatch_floating(kOp, x.dtype(), [&]<class T>() {
    detail::call(kOp, x.device(), &PoolingKernels<T>::last_token, t.batch, t.tokens, valid, index);
  });
  return take_token(kOp, x, index);
}

Tensor first_token(const Tensor& ids, std::int64_t id, const Tensor& valid) {
  constexpr const char* kOp = "first_token";
  const OpScope scope(kOp);
  if (!ids.defined() || ids.rank() != 2) {
    throw ShapeError(fmt::format("{}: ids are {}, expected [batch, tokens]", kOp, describe(ids)));
  }
  if (ids.dtype() != DType::kInt32 && ids.dtype() != DType::kInt64) {
    throw DTypeError(fmt::format("{}: ids are {}, expected int32 or int64", kOp, name(ids.dtype())));
  }
  if (valid.defined()) detail::require_mask(kOp, "valid", valid, ids.shape(), ids.device());
  return first_fitting(kOp, valid, ids.to(DType::kInt64), id);
}

Tensor token_positions(const Tensor& valid, std::int64_t first) {
  constexpr const char* kOp = "token_positions";
  const OpScope scope(kOp);
  if (!valid.defined() || valid.rank() != 2) {
    throw ShapeError(fmt::format("{}: valid is {}, expected [batch, tokens]", kOp, describe(valid)));
  }
  detail::require_mask(kOp, "valid", valid, valid.shape(), valid.device());
  Tensor positions = Tensor::empty(valid.shape(), DType::kInt64, valid.device());
  detail::call(kOp, valid.device(), &PoolingKernels<float>::token_positions, valid.size(0), valid.size(1), first, valid,
               positions);
  return positions;
}

}  // namespace tapecache::ops
