#pragma once

#include "tapecache/autograd/variable.h"
#include "tapecache/ops/result_type.h"

namespace tapecache::ops {

struct AttentionOptions {
  bool causal = false;  ///< a token attends to itself and earlier ones only
  Tensor valid = {};    ///< bool [batch, tokens]; false marks padding, which no token attends to. Undefined: none.
  ResultType result = ResultType::kComputed;
  /// [heads, tokens, tokens], added to the scaled scores of every sample, as for relative positions; undefined: none.
  /// It gets a gradient. Attention is then put together of other ops, which keep all scores: of f32 and f64, not
  /// causal.
  Variable bias = {};
};

/// Multi-head scaled dot-product attention (Vaswani et al. 2017) on packed queries, keys and values
/// [batch, tokens, 3·width], width = heads · head width, laid out [.., 3, heads, head width]: [batch, tokens, width].
/// Scores are scaled by 1/√(head width). A token that may attend to nothing gets 0. Tokens that may not
/// be attended to count for nothing, but must be finite: their weights are 0, and 0 times NaN is NaN. Only two numbers
/// per token and head are kept for the derivative. qkv may be of 16 bits, as a product leaves it; under `Autocast` the
/// result is rounded to them, whichever type it is then kept in. Throws ShapeError, ValueError, DTypeError.
Variable attention(const Variable& qkv, std::int64_t heads, const AttentionOptions& options = {});

}  // namespace tapecache::ops
