#include "tapecache/models/attention.h"

#include <fmt/format.h>

#include "tapecache/ops/linear.h"

namespace tapecache::models {

MultiHeadAttention::MultiHeadAttention(const Builder& builder, std::int64_t width, std::int64_t heads, const Init& in,
                                       const Init& out, const AttentionNames& names)
    : heads_(heads),
      q_(builder.child(names.query), width, width, in),
      k_(builder.child(names.key), width, width, in),
      v_(builder.child(names.value), width, width, in),
      out_(builder.child(names.out), width, width, out) {
  if (heads < 1 || width % heads != 0) {
    throw ValueError(fmt::format("attention: {} heads do not divide a width of {}", heads, width));
  }
}

Variable MultiHeadAttention::operator()(const Variable& x, const ops::AttentionOptions& options,
                                        const Variable& residual) const {
  const Variable qkv = ops::joined_linear(x, weights(), biases());
  return out_(ops::attention(qkv, heads_, options), residual);
}

Variable MultiHeadAttention::after(const LayerNorm& norm, const Variable& x, const ops::AttentionOptions& options,
                                   const Variable& residual) const {
  const Variable qkv = ops::normalized_linear(x, norm, weights(), biases());
  return out_(ops::attention(qkv, heads_, options), residual);
}

}  // namespace tapecache::models
