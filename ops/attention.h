#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "tapecache/autograd/variable.h"
#include "tapecache/ops/linear.h"

namespace tapecache::ops {

struct AttentionOptions {
  bool causal = false;  ///< a token attends to itself and earlier ones only
  Tensor valid = {};    ///< bool [batch, tokens]; false marks padding, which no token attends to. Undefined: none.
  ResultType result = ResultType::kComputed;
  /// [heads, tokens, tokens], added to the scaled scores of every sample, as for relative positions; undefined: none.
  /// It gets a gradient. Attention is then put together of other ops, which keep all scores: of f32 and f64, not
  /// causal, without a window, with as many heads of keys as of queries.
  Variable bias = {};
  /// Heads of keys and of values, each of which serves as many neighbouring heads of queries (grouped-query attention,
  /// Ainslie et al. 2023). 0: as many as there are heads.
  std::int64_t kv_heads = 0;
  /// A token attends only to tokens that are at most so far from it, on either side. What is further off costs nothing.
  std::optional<std::int64_t> window = {};
};

/// Multi-head scaled dot-product attention (Vaswani et al. 2017) on packed queries, keys and values
/// [batch, tokens, 3·width], width = heads · head width, laid out [.., 3, heads, head width]: [batch, tokens, width].
/// With `kv_heads` they are laid out [.., heads + 2·kv_heads, head width]: queries, then keys, then values.
/// Scores are scaled by 1/√(head width). A token that may attend to nothing gets 0. Tokens that may not
/// be attended to count for nothing, but must be finite: their weights are 0, and 0 times NaN is NaN. Only two numbers
/// per token and head are kept for the derivative. qkv may be of 16 bits, as a product leaves it; under `Autocast` the
/// result is rounded to them, whichever type it is then kept in. Throws ShapeError, ValueError, DTypeError.
Variable attention(const Variable& qkv, std::int64_t heads, const AttentionOptions& options = {});

/// Rotary position embedding (Su et al. 2021) of queries and keys as `attention` takes them: of the first `heads` heads
/// of x [batch, tokens, features], elements i and i + head width / 2 are rotated by the angle i of their token's row of
/// `table`; what follows those heads stays. `table` [at least tokens, head width] is `rope_table`'s, of the type that x
/// is computed with. x may be of 16 bits, and is rounded once. Throws ShapeError, ValueError, DTypeError, DeviceError.
Variable rope(const Variable& x, std::int64_t heads, const Tensor& table);

/// [positions, 2 · frequencies]: the cosines of the angles position · frequency, and after them their sines. Angles are
/// rounded to f32, as models of PyTorch are trained with them. Throws ValueError for no frequency or no position.
Tensor rope_table(std::span<const double> frequencies, std::int64_t positions, DType dtype);

}  // namespace tapecache::ops
