#pragma once

#include <cstdint>

#include "tapecache/models/layers.h"
#include "tapecache/ops/attention.h"

namespace tapecache::models {

/// What the projections of a MultiHeadAttention are called; as in a Hugging Face CLIP layer unless given.
struct AttentionNames {
  const char *query = "q_proj", *key = "k_proj", *value = "v_proj", *out = "out_proj";
};

/// Multi-head self-attention [batch, tokens, width]. The projections to queries, keys and values are applied as one
/// product.
class MultiHeadAttention {
 public:
  /// `in` and `out` initialise the input and output projections. Throws ValueError where heads do not divide width.
  MultiHeadAttention(const Builder& builder, std::int64_t width, std::int64_t heads, const Init& in, const Init& out,
                     const AttentionNames& names = {});
  Variable operator()(const Variable& x, const ops::AttentionOptions& options = {}) const;

 private:
  std::int64_t heads_;
  Linear q_, k_, v_, out_;
};

}  // namespace tapecache::models
