#pragma once

#include <cstdint>

#include "tapecache/models/layers.h"
#include "tapecache/ops/attention.h"

namespace tapecache::models {

/// Multi-head self-attention [batch, tokens, width] with projections named as in Hugging Face: `q_proj`, `k_proj`,
/// `v_proj`, `out_proj`. The first three are applied as one product.
class MultiHeadAttention {
 public:
  /// `in` and `out` initialise the input and output projections. Throws ValueError where heads do not divide width.
  MultiHeadAttention(const Builder& builder, std::int64_t width, std::int64_t heads, const Init& in, const Init& out);
  Variable operator()(const Variable& x, const ops::AttentionOptions& options = {}) const;

 private:
  std::int64_t heads_;
  Linear q_, k_, v_, out_;
};

}  // namespace tapecache::models
