#include "tapecache/models/layers.h"

#include <string>

#include <fmt/format.h>

#include "tapecache/models/argument_checks.h"
#include "tapecache/models/linear_row.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/linear.h"
#include "tapecache/ops/normalize.h"

namespace tapecache::models {

namespace {

std::string name_of(const char* layer, const Builder& builder) {
  return fmt::format("{} '{}'", layer, builder.prefix());
}

Shape checked_linear(const Builder& builder, std::int64_t in, std::int64_t out) {
  detail::require_sizes(name_of("linear", builder), {{"in", in}, {"out", out}});
  return {out, in};
}

Shape checked_embedding(const Builder& builder, std::int64_t entries, std::int64_t width) {
  detail::require_sizes(name_of("embedding", builder), {{"entries", entries}, {"width", width}});
  return {entries, width};
}

Shape checked_norm(const Builder& builder, std::int64_t width, double epsilon) {
  const std::string layer = name_of("layer norm", builder);
  detail::require_sizes(layer, {{"width", width}});
  detail::require_epsilon(layer, epsilon);
  return {width};
}

Variable with_adapter(const LinearAdapter& adapter, const Variable& y, const detail::AdapterInput& input) {
  const LinearAdapter* const one = &adapter;
  const std::int64_t width = y.size(-1);
  return detail::add_adapters(y, std::span(&one, 1), std::span(&width, 1), input);
}

}  // namespace

Linear::Linear(const Builder& builder, std::int64_t in, std::int64_t out, const Init& weight_init, bool with_bias)
    : weight(builder.parameter("weight", checked_linear(builder, in, out), weight_init)) {
  if (with_bias) bias = builder.parameter("bias", {out}, Init::constant(0));
  auto adapter = std::make_shared<LinearAdapter>(LinearAdapter{.layer = builder.prefix(), .weight = weight});
  adapter_ = adapter;
  builder.add_linear_layer(std::move(adapter));
}

Variable Linear::operator()(const Variable& x, const Variable& residual) const {
  const Variable y = ops::linear(x, weight, bias_or_none(), residual);
  if (!adapter_->active()) return y;
  return with_adapter(*adapter_, y,
                      {[&](std::span<const Variable> a) { return ops::linear(x, a.front()); }, [&] { return x; }});
}

Variable Linear::after(ops::Activation activation, const Variable& x, const Variable& residual) const {
  const Variable y = ops::activated_linear(x, activation, weight, bias_or_none(), residual);
  if (!adapter_->active()) return y;
  return with_adapter(*adapter_, y,
                      {[&](std::span<const Variable> a) { return ops::activated_linear(x, activation, a.front()); },
                       [&] { return ops::activate(activation, x); }});
}

ops::NormalizedLinear Linear::after(const LayerNorm& norm, const Variable& x, ops::KeepNorm keep,
                                    ops::ResultType result) const {
  return detail::LinearRow({this}).after(norm, x, keep, result);
}

ops::ResultType Linear::reads() const {
  return adapter_->drops() ? ops::ResultType::kComputed : ops::ResultType::kOperand;
}

LayerNorm::LayerNorm(const Builder& builder, std::int64_t width, double epsilon)
    : weight(builder.parameter("weight", checked_norm(builder, width, epsilon), Init::constant(1))),
      bias(builder.parameter("bias", {width}, Init::constant(0))),
      epsilon_(epsilon) {
  weight.set("epsilon", fmt::to_string(epsilon));
}

Variable LayerNorm::operator()(const Variable& x, const Variable& residual) const {
  return ops::layer_norm(x, weight, bias, epsilon_, residual);
}

Embedding::Embedding(const Builder& builder, std::int64_t entries, std::int64_t width, const Init& weight_init)
    : weight(builder.parameter("weight", checked_embedding(builder, entries, width), weight_init)) {}

Variable Embedding::operator()(const Tensor& ids) const { return ops::embedding(weight, ids); }

detail::Stochastic::Stochastic(const char* layer, const Builder& builder, double probability)
    : builder_(builder), probability_(probability) {
  detail::require_probability(layer, "probability", probability);
}

Variable Dropout::operator()(const Variable& x, bool training) const {
  return training ? ops::dropout(x, probability()) : x;
}

Variable DropPath::operator()(const Variable& x, bool training) const {
  return active(training) ? ops::drop_path(x, probability()) : x;
}

}  // namespace tapecache::models
