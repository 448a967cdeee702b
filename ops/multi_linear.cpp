#include <algorithm>
#include <array>
#include <vector>

#include <fmt/format.h>

#include "tapecache/core/element.h"
#include "tapecache/core/op_scope.h"
#include "tapecache/ops/call.h"
#include "tapecache/ops/checks.h"
#include "tapecache/ops/gemm.h"
#include "tapecache/ops/layer_norm_gradient.h"
#include "tapecache/ops/linear.h"
#include "tapecache/ops/low_precision.h"
#include "tapecache/ops/packed_weight.h"

namespace tapecache::ops {

namespace {

using kernels::Mode;

/// How many columns of the result each weight makes.
struct Parts {
  static constexpr std::size_t kMax = 8;

  std::size_t count = 0;
  std::array<std::int64_t, kMax> width{}, first{};
  std::int64_t total = 0;

  void add(std::int64_t columns) {
    width[count] = columns;
    first[count++] = total;
    total += columns;
  }
};

Parts checked_parts(const char* op, const Variable& x, std::span<const Variable> weights,
                    std::span<const Variable> biases) {
  detail::require_operand(op, "x", x, 1);
  if (weights.empty() || weights.size() > Parts::kMax || (!biases.empty() && biases.size() != weights.size())) {
    throw ValueError(fmt::format("{}: {} weights and {} biases, expected 1 to {} weights and as many biases or none",
                                 op, weights.size(), biases.size(), Parts::kMax));
  }
  Parts parts;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    detail::require_weight(op, x, weights[i], biases.empty() ? Variable() : biases[i]);
    parts.add(weights[i].size(0));
  }
  return parts;
}

/// The elements from a column of the first row on.
Tensor from_column(const Tensor& rows, std::int64_t column) {
  const Tensor flat = rows.reshape({rows.numel()});
  return rows.numel() == 0 ? flat : flat.slice(column, rows.numel());
}

struct Normalized {
  Tensor y, mean, rstd;
};

/// layer_norm(x), its rows in the type of an operand.
Normalized normalize(const char* op, const Tensor& x, const Tensor& gamma, const Tensor& beta, double epsilon,
                     DType operand) {
  const std::int64_t rows = detail::rows_of(x.shape()), cols = x.size(-1);
  Normalized to{Tensor::empty(x.shape(), operand, x.device()), Tensor::empty({rows}, x.dtype(), x.device()),
                Tensor::empty({rows}, x.dtype(), x.device())};
  dispatch_any_floating(op, operand, [&]<class Out>() {
    using Kernels = kernels::NormalizeKernels<Out>;
    if constexpr (kLowPrecision<Out>) {
      detail::call(op, x.device(), &Kernels::layer_norm, rows, cols, epsilon, x, gamma, beta, to.y, to.mean, to.rstd);
    } else {
      detail::call(op, x.device(), &Kernels::layer_norm, rows, cols, epsilon, x, nullptr, gamma, beta, nullptr, to.y,
                   to.mean, to.rstd);
    }
  });
  return to;
}

/// The weights as products take them: each by itself or, of 16 bits, one below the other as one matrix, so that one
/// product makes all columns.
struct Operands {
  Parts parts;  // of `weights`
  std::vector<Tensor> weights, biases;
};

/// f32 tensors one below the other, in the given type.
Tensor packed(const char* op, std::span<const Variable> variables, const Parts& parts, DType dtype) {
  Tensor all = Tensor::empty(variables.front().shape().with(0, parts.total), dtype, variables.front().device());
  for (std::size_t i = 0; i < parts.count; ++i) {
    Tensor part = all.slice(parts.first[i], parts.first[i] + parts.width[i]);
    if (is_low_precision(dtype)) detail::round_to(op, variables[i].value(), part);
    else part.copy_from(variables[i].value());
  }
  return all;
}

Operands operands_of(const char* op, const Parts& parts, std::span<const Variable> weights,
                     std::span<const Variable> biases, DType operand) {
  Operands operands{parts, {}, {}};
  const bool all_defined = std::all_of(biases.begin(), biases.end(), [](const Variable& b) { return b.defined(); });
  if (!is_low_precision(operand) || parts.count == 1 || !all_defined) {
    for (const Variable& w : weights) operands.weights.push_back(detail::weight_in_type(op, w, operand));
    for (const Variable& b : biases) operands.biases.push_back(b.value());
    return operands;
  }
  const auto pack = [&](std::span<const Variable> all, DType dtype) {
    return detail::kept_operand(all, dtype, [&] { return packed(op, all, parts, dtype); });
  };
  operands.parts = Parts();
  operands.parts.add(parts.total);
  operands.weights = {pack(weights, operand)};
  if (!biases.empty()) operands.biases = {pack(biases, biases.front().dtype())};
  return operands;
}

void multiply(const char* op, const Operands& operands, std::span<const Variable> weights, const Tensor& input,
              Tensor& y) {
  const Parts& parts = operands.parts;
  const std::int64_t rows = detail::rows_of(y.shape()), in = input.size(-1);
  for (std::size_t i = 0; i < parts.count; ++i) {
    Tensor columns = from_column(y, parts.first[i]);
    const Tensor bias = operands.biases.empty() ? Tensor() : operands.biases[i];
    kernels::Gemm product{.m = rows, .n = parts.width[i], .k = in, .transpose_b = true, .pitch_c = parts.total};
    const Tensor weight = detail::packed_weight(op, operands.weights[i], weights[i].is_present_value(), product);
    detail::gemm(op, product, input, weight, bias, {}, columns, Mode::kWrite);
  }
}

/// dX = Σ dYᵢ Wᵢ + residual, the weights being saved first.
void input_gradient(const char* op, Backward& ctx, const Parts& parts, const Tensor& dy, const Tensor& residual,
                    Tensor& dx, Mode mode) {
  const std::int64_t rows = detail::rows_of(dy.shape()), in = dx.size(-1);
  for (std::size_t i = 0; i < parts.count; ++i) {
    kernels::Gemm back{.m = rows, .n = in, .k = parts.width[i], .pitch_a = parts.total};
    const Tensor weight = detail::packed_weight(op, ctx.saved(i), false, back);
    detail::gemm(op, back, from_column(dy, parts.first[i]), weight, {}, i == 0 ? residual : Tensor(), dx,
                 i == 0 ? mode : Mode::kAccumulate);
  }
}

/// dWᵢ = dYᵢᵀ X and dbᵢ = Σ_rows dYᵢ, the weights being the inputs from `first` on. `low_dy` is dy in the type of x.
void parameter_gradients(const char* op, Backward& ctx, const Parts& parts, const Tensor& dy, const Tensor& low_dy,
                         const Tensor& x, std::size_t first) {
  const std::int64_t rows = detail::rows_of(dy.shape()), in = x.size(-1);
  for (std::size_t i = 0; i < parts.count; ++i) {
    const std::size_t weight = first + i, bias = weight + parts.count;
    const kernels::Gemm shape{.m = parts.width[i], .n = in, .k = rows, .transpose_a = true, .pitch_a = parts.total};
    detail::parameter_gradients(op, shape, from_column(dy, parts.first[i]), from_column(low_dy, parts.first[i]), x,
                                detail::wanted(ctx, weight), detail::wanted(ctx, bias));
  }
}

/// The inputs of an op: x and whatever `more` holds, then the weights, then as many biases.
std::vector<Variable> inputs_of(std::vector<Variable> inputs, std::span<const Variable> weights,
                                std::span<const Variable> biases) {
  inputs.insert(inputs.end(), weights.begin(), weights.end());
  if (biases.empty()) inputs.resize(inputs.size() + weights.size());
  inputs.insert(inputs.end(), biases.begin(), biases.end());
  return inputs;
}

}  // namespace

Variable multi_linear(const Variable& x, std::span<const Variable> weights, std::span<const Variable> biases,
                      ResultType result) {
  constexpr const char* kOp = "multi_linear";
  const OpScope scope(kOp);
  const Parts parts = checked_parts(kOp, x, weights, biases);
  const DType operand = detail::operand_type(x.value());
  const Tensor input = detail::in_type(kOp, x.value(), operand);
  Operands operands = operands_of(kOp, parts, weights, biases, operand);
  Tensor y = Tensor::empty(x.shape().with(-1, parts.total), detail::result_type(operand, result), x.device());
  multiply(kOp, operands, weights, input, y);
  std::vector<Tensor> saved = std::move(operands.weights);
  saved.push_back(input);
  return record(kOp, std::move(y), inputs_of({x}, weights, biases), std::move(saved),
                [=, saved_parts = operands.parts](Backward& ctx) {
                  const Tensor& dy = ctx.output_gradient();
                  const Tensor low_dy = detail::in_type(kOp, dy, operand);
                  if (ctx.needs(0)) {
                    GradientTarget dx = ctx.gradient(0);
                    input_gradient(kOp, ctx, saved_parts, low_dy, {}, dx.tensor, detail::mode_of(dx));
                  }
                  parameter_gradients(kOp, ctx, parts, dy, low_dy, ctx.saved(saved_parts.count), 1);
                });
}

NormalizedLinear normalized_linear(const Variable& x, const Norm& norm, std::span<const Variable> weights,
                                   std::span<const Variable> biases, KeepNorm keep, ResultType result) {
  constexpr const char* kOp = "normalized_linear";
  const OpScope scope(kOp);
  detail::require_floating(kOp, "x", x, 1);
  const Parts parts = checked_parts(kOp, x, weights, biases);
  detail::require_norm(kOp, x, norm.weight, norm.bias, norm.epsilon);
  const DType operand = detail::operand_type(x.value());
  const bool keeps = keep == KeepNorm::kYes;
  Operands operands = operands_of(kOp, parts, weights, biases, operand);
  Tensor y = Tensor::empty(x.shape().with(-1, parts.total), detail::result_type(operand, result), x.device());
  const Tensor normalized =
      normalize(kOp, x.value(), norm.weight.value(), norm.bias.value(), norm.epsilon, keeps ? x.dtype() : operand).y;
  multiply(kOp, operands, weights, detail::in_type(kOp, normalized, operand), y);
  std::vector<Tensor> saved = std::move(operands.weights);
  saved.insert(saved.end(), {x.value(), norm.weight.value(), norm.bias.value()});
  const std::vector<Variable> inputs = inputs_of({x, norm.weight, norm.bias}, weights, biases);
  const double epsilon = norm.epsilon;
  std::vector<Tensor> results{std::move(y)};
  if (keeps) results.push_back(normalized);
  std::vector<Variable> outputs =
      record(kOp, std::move(results), inputs, std::move(saved), [=, saved_parts = operands.parts](Backward& ctx) {
        // h = layer_norm(x), again; dH += Σ dYᵢ Wᵢ, and from there as layer_norm's derivative
        const std::size_t rest = saved_parts.count;
        const Tensor &dy = ctx.output_gradient(0), &input = ctx.saved(rest), &gamma = ctx.saved(rest + 1);
        const Normalized h = normalize(kOp, input, gamma, ctx.saved(rest + 2), epsilon, operand);
        const Tensor low_dy = dy.defined() ? detail::in_type(kOp, dy, operand) : dy;
        if (ctx.needs(0) || ctx.needs(1) || ctx.needs(2)) {
          Tensor dh = keeps ? ctx.output_gradient(1) : Tensor();
          if (dy.defined()) {
            const Tensor residual = dh;
            dh = Tensor::empty(input.shape(), input.dtype(), input.device());
            input_gradient(kOp, ctx, saved_parts, low_dy, residual, dh, Mode::kWrite);
          }
          dispatch_floating(kOp, input.dtype(), [&]<class T>() {
            detail::layer_norm_gradient<T>(kOp, ctx, input, gamma, h.mean, h.rstd, dh,
                                           ctx.needs(0) ? ctx.gradient(0) : GradientTarget());
          });
        }
        if (dy.defined()) parameter_gradients(kOp, ctx, parts, dy, low_dy, h.y, 3);
      });
  return {std::move(outputs[0]), keeps ? std::move(outputs[1]) : Variable()};
}

}  // namespace tapecache::ops
