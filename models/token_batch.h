#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "tapecache/core/tensor.h"

namespace tapecache::models {

/// Token sequences of one batch, padded to a common length. `slice`, `lengths` and `select` throw ShapeError for ids that are
/// not [batch, tokens] or a mask of another shape than theirs, DTypeError for a mask that is not bool.
struct TokenBatch {
  Tensor ids = {};    ///< i32 or i64 [batch, tokens]
  Tensor valid = {};  ///< bool [batch, tokens], false for padding; undefined where there is none

  std::int64_t size() const { return ids.size(0); }
  /// Sequences [begin, end), sharing storage. Throws ShapeError outside the batch.
  TokenBatch slice(std::int64_t begin, std::int64_t end) const;
  /// The batch with `change(t)` in the place of each of its tensors.
  template <class Change>
  TokenBatch map_tensors(const Change& change) const {
    return {change(ids), valid.defined() ? change(valid) : Tensor()};
  }
  /// A copy on another device.
  TokenBatch to(Device device) const;
  /// A copy in page-locked memory of the host: see Tensor::pinned.
  TokenBatch pinned() const;
  /// Tokens of each sequence up to its last valid one: what gradient caching cuts by, where it is given a token budget.
  std::vector<std::int64_t> lengths() const;
  /// The given sequences in their order, cut behind the longest of them. Throws ValueError for one that there is not.
  TokenBatch select(std::span<const std::int64_t> sequences) const;
  /// Changes when the tokens or the mask do.
  std::uint64_t version() const { return ids.version() + (valid.defined() ? valid.version() : 0); }

  /// Pads each sequence with `pad_id` to the longest, but at least `min_tokens`. Throws ValueError for no sequences,
  /// an empty one or min_tokens > max_tokens, ShapeError for a sequence of more than `max_tokens`.
  static TokenBatch pad(std::span<const std::vector<std::int32_t>> sequences, std::int32_t pad_id = 0,
                        std::int64_t min_tokens = 1,
                        std::int64_t max_tokens = (std::numeric_limits<std::int64_t>::max)());
};

/// Throws, in the name of `model`: ShapeError for more than `max_tokens` tokens or a mask of another shape than the
/// ids, DTypeError for ids or a mask of another type, ValueError for an id outside the vocabulary or a sample without
/// a valid token.
void check_tokens(const char* model, const TokenBatch& tokens, std::int64_t max_tokens, std::int64_t vocabulary);

}  // namespace tapecache::models
