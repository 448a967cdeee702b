#pragma once

#include <array>
#include <cstdint>

#include "tapecache/models/layers.h"
#include "tapecache/ops/attention.h"

namespace tapecache::models {

/// What the projections of a MultiHeadAttention are called; as in a Hugging Face CLIP layer unless given.
struct AttentionNames {
  const char *query = "q_proj", *key = "k_proj", *value = "v_proj", *out = "out_proj";
};

/// Multi-head self-attention [batch, tokens, width], plus the residual where there is one.
class MultiHeadAttention {
 public:
  /// `in` and `out` initialise the input and output projections. Throws ValueError where heads do not divide width.
  MultiHeadAttention(const Builder& builder, std::int64_t width, std::int64_t heads, const Init& in, const Init& out,
                     const AttentionNames& names = {});
  Variable operator()(const Variable& x, const ops::AttentionOptions& options = {},
                      const Variable& residual = {}) const;
  /// Of norm(x), which backward computes again.
  Variable after(const LayerNorm& norm, const Variable& x, const ops::AttentionOptions& options = {},
                 const Variable& residual = {}) const;

 private:
  std::array<Variable, 3> weights() const { return {q_.weight, k_.weight, v_.weight}; }
  std::array<Variable, 3> biases() const { return {q_.bias, k_.bias, v_.bias}; }

  std::int64_t heads_;
  Linear q_, k_, v_, out_;
};

}  // namespace tapecache::models
