#pragma once

#include <cstdint>

#include "tapecache/models/layers.h"
#include "tapecache/models/transformer_block.h"

#pragma GCC visibility push(hidden)

namespace tapecache::models::detail {

/// SigLIP's head (Zhai et al. 2023; Lee et al. 2019, "Set transformer"): multi-head attention of one learnt query to
/// all tokens, then a perceptron with a norm and a residual. Parameters are named as in transformers, with the
/// projections of query, keys and values in one, as in torch's MultiheadAttention.
///
/// None of the attention's projections can be adapted: PEFT adapts them together, and adds the last one's adapter
/// twice.
class AttentionPool {
 public:
  AttentionPool(const Builder& builder, const TransformerConfig& config);
  /// x [batch, tokens, width] to [batch, width].
  Variable operator()(const Variable& x) const;

 private:
  std::int64_t heads_;
  ops::Activation activation_;
  Parameter probe_, in_weight_, in_bias_;
  Linear out_;
  LayerNorm norm_;
  Linear fc1_, fc2_;
};

}  // namespace tapecache::models::detail

#pragma GCC visibility pop
