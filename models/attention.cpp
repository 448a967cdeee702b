#include "tapecache/models/transformer_block.h"

#include <fmt/format.h>

#include "tapecache/models/linear_row.h"
#include "tapecache/ops/linear.h"

namespace tapecache::models {

namespace {

std::int64_t checked_heads(std::int64_t width, std::int64_t heads) {
  if (width < 1 || heads < 1 || width % heads != 0) {
    throw ValueError(fmt::format("attention: {} heads do not divide a width of {}", heads, width));
  }
  return heads;
}

}  // namespace

MultiHeadAttention::MultiHeadAttention(const Builder& builder, std::int64_t width, std::int64_t heads, const Init& in,
                                       const Init& out, const Names& names, ops::ResultType projected, bool in_bias)
    : heads_(checked_heads(width, heads)),
      projected_(projected),
      q_(builder.child(names.query), width, width, in, in_bias),
      k_(builder.child(names.key), width, width, in, in_bias),
      v_(builder.child(names.value), width, width, in, in_bias),
      out_(builder.child(names.out), width, width, out) {
  q_.weight.set("heads", fmt::to_string(heads));
}

MultiHeadAttention::MultiHeadAttention(const Builder& builder, std::int64_t width, std::int64_t heads, const Init& in,
                                       const Init& out)
    : MultiHeadAttention(builder, width, heads, in, out, Names()) {}

detail::LinearRow MultiHeadAttention::qkv() const { return detail::LinearRow({&q_, &k_, &v_}); }

Variable MultiHeadAttention::operator()(const Variable& x, const ops::AttentionOptions& options,
                                        const Variable& residual) const {
  return attend(project(x), options, residual);
}

Variable MultiHeadAttention::project(const Variable& x) const { return qkv()(x, projected_); }

ops::NormalizedLinear MultiHeadAttention::project(const LayerNorm& norm, const Variable& x, ops::KeepNorm keep) const {
  return qkv().after(norm, x, keep, projected_);
}

Variable MultiHeadAttention::attend(const Variable& qkv, const ops::AttentionOptions& options, const Variable& residual,
                                    const TokenChoice& choice) const {
  ops::AttentionOptions how = options;
  // What picks a token need not take 16 bits; the projection does.
  how.result = choice ? ops::ResultType::kComputed : out_.reads();
  const Variable attended = ops::attention(qkv, heads_, how);
  return out_(choice ? choice(attended) : attended, residual);
}

}  // namespace tapecache::models
