#include "tapecache/models/attention.h"

#include <array>

#include <fmt/format.h>

#include "tapecache/ops/layout.h"
#include "tapecache/ops/matmul.h"

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

Variable MultiHeadAttention::operator()(const Variable& x, const ops::AttentionOptions& options) const {
  const std::array<Variable, 3> weights{q_.weight, k_.weight, v_.weight}, biases{q_.bias, k_.bias, v_.bias};
  const Variable qkv = ops::linear(x, ops::concat(weights), ops::concat(biases));
  return out_(ops::attention(qkv, heads_, options));
}

}  // namespace tapecache::models
