#include "tapecache/models/attention_pool.h"

#include <cmath>
#include <string>

#include "tapecache/models/activation_names.h"
#include "tapecache/models/linear_adapter.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/linear.h"
#include "tapecache/ops/normalize.h"
#include "tapecache/ops/reduce.h"

namespace tapecache::models::detail {

namespace {

Init spread_over(std::int64_t width) { return Init::normal(1 / std::sqrt(static_cast<double>(width))); }

}  // namespace

AttentionPool::AttentionPool(const Builder& builder, const TransformerConfig& config)
    : heads_(config.heads),
      activation_(config.activation),
      probe_(builder.parameter("probe", {1, 1, config.width}, spread_over(config.width))),
      in_weight_(builder.child("attention")
                     .parameter("in_proj_weight", {3 * config.width, config.width}, spread_over(config.width))),
      in_bias_(builder.child("attention").parameter("in_proj_bias", {3 * config.width}, Init::constant(0))),
      out_(builder.child("attention.out_proj"), config.width, config.width, spread_over(config.width)),
      norm_(builder.child("layernorm"), config.width, config.epsilon),
      fc1_(builder.child("mlp.fc1"), config.width, config.mlp_width, spread_over(config.width)),
      fc2_(builder.child("mlp.fc2"), config.mlp_width, config.width, spread_over(config.mlp_width)) {
  in_weight_.set("heads", std::to_string(heads_));
  fc1_.weight.set("activation", std::string(name_of(activation_)));
  const std::string last = builder.child("attention.out_proj").prefix();
  for (const auto& layer : builder.linear_layers()) layer->adaptable = layer->adaptable && layer->layer != last;
}

Variable AttentionPool::operator()(const Variable& x) const {
  const std::int64_t batch = x.size(0), tokens = x.size(1), width = x.size(2), head_width = width / heads_;
  const auto projected = [&](const Variable& of, std::int64_t first, std::int64_t last) {
    return ops::linear(of, ops::slice(in_weight_, 0, first * width, last * width),
                       ops::slice(in_bias_, 0, first * width, last * width));
  };
  const Variable query =
      ops::scale(projected(ops::reshape(probe_, {1, width}), 0, 1), 1 / std::sqrt(static_cast<double>(head_width)));
  const Variable by_head =
      ops::transpose(ops::reshape(projected(x, 1, 3), {batch, tokens, 2 * heads_, head_width}), 1, 2);
  const Variable keys = ops::slice(by_head, 1, 0, heads_), values = ops::slice(by_head, 1, heads_, 2 * heads_);
  const Variable scores = ops::sum(ops::multiply(keys, ops::reshape(query, {heads_, 1, head_width})), -1);
  const Variable found = ops::matmul(ops::reshape(ops::softmax(scores), {batch, heads_, 1, tokens}), values);
  const Variable attended = out_(ops::reshape(found, {batch, width}));
  return fc2_.after(activation_, fc1_.after(norm_, attended, ops::KeepNorm::kNo, fc2_.reads()).y, attended);
}

}  // namespace tapecache::models::detail
