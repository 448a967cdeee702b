#pragma once

#include <cstdint>
#include <functional>

#include "tapecache/models/layers.h"
#include "tapecache/ops/attention.h"

namespace tapecache::models {

/// What the projections of a MultiHeadAttention are called; as in a Hugging Face CLIP layer unless given.
struct AttentionNames {
  const char *query = "q_proj", *key = "k_proj", *value = "v_proj", *out = "out_proj";
};

/// Picks one token of each sample: x [batch, tokens, width] to [batch, width], as `ops::cls_pool` does.
using TokenChoice = std::function<Variable(const Variable& x)>;

/// Multi-head self-attention [batch, tokens, width], plus the residual where there is one.
class MultiHeadAttention {
 public:
  /// `in` and `out` initialise the input and output projections. Throws ValueError where heads do not divide width.
  /// Queries, keys and values are `projected` to that type.
  MultiHeadAttention(const Builder& builder, std::int64_t width, std::int64_t heads, const Init& in, const Init& out,
                     const AttentionNames& names = {}, ops::ResultType projected = ops::ResultType::kOperand);
  Variable operator()(const Variable& x, const ops::AttentionOptions& options = {},
                      const Variable& residual = {}) const;
  /// Its first half: queries, keys and values side by side, of x or of norm(x), which backward computes again. They are
  /// of the type that a product takes.
  Variable project(const Variable& x) const;
  ops::NormalizedLinear project(const LayerNorm& norm, const Variable& x, ops::KeepNorm) const;
  /// Its second half, from those; where `choice` is set, the output projection is of the chosen tokens alone.
  Variable attend(const Variable& qkv, const ops::AttentionOptions& options = {}, const Variable& residual = {},
                  const TokenChoice& choice = {}) const;

 private:
  LinearRow qkv() const { return LinearRow({&q_, &k_, &v_}); }

  std::int64_t heads_;
  ops::ResultType projected_;
  Linear q_, k_, v_, out_;
};

}  // namespace tapecache::models
