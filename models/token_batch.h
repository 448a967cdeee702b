#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "tapecache/autograd/variable.h"
#include "tapecache/core/tensor.h"

namespace tapecache::models {

/// Token sequences of one batch, padded to a common length. `slice`, `lengths` and `select` throw ShapeError for ids
/// that are not [batch, tokens] or a mask or types of another shape than theirs, DTypeError for a mask that is not
/// bool.
struct TokenBatch {
  Tensor ids = {};    ///< i32 or i64 [batch, tokens]
  Tensor valid = {};  ///< bool [batch, tokens], false for padding; undefined where there is none
  Tensor types = {};  ///< i32 or i64 [batch, tokens], the segment of each token in a pair of texts; undefined: all 0

  std::int64_t size() const { return ids.size(0); }
  /// Sequences [begin, end), sharing storage. Throws ShapeError outside the batch.
  TokenBatch slice(std::int64_t begin, std::int64_t end) const;
  /// The batch with `change(t)` in the place of each of its tensors.
  template <class Change>
  TokenBatch map_tensors(const Change& change) const {
    const auto changed = [&](const Tensor& t) { return t.defined() ? change(t) : Tensor(); };
    return {changed(ids), changed(valid), changed(types)};
  }
  /// A copy on another device.
  TokenBatch to(Device device) const;
  /// A copy in page-locked memory of the host: see Tensor::pinned.
  TokenBatch pinned() const;
  /// Tokens of each sequence up to its last valid one: what gradient caching cuts by, where it is given a token budget.
  std::vector<std::int64_t> lengths() const;
  /// The given sequences in their order, cut behind the longest of them. Throws ValueError for one that there is not.
  TokenBatch select(std::span<const std::int64_t> sequences) const;
  /// Changes when any of its tensors does.
  std::uint64_t version() const;
  /// Throws, in the name of `model`: ShapeError for more than `max_tokens` tokens, or a mask or types of another shape
  /// than the ids; DTypeError for ids, a mask or types of another type; ValueError for an id outside the vocabulary, a
  /// sample without a valid token, or types where the model has none (`known_types` is 0). The values of types are
  /// checked where they are looked up.
  void check(const char* model, std::int64_t max_tokens, std::int64_t vocabulary, std::int64_t known_types = 0) const;

  /// Pads each sequence with `pad_id` to the longest, but at least `min_tokens`. Throws ValueError for no sequences,
  /// an empty one or min_tokens > max_tokens, ShapeError for a sequence of more than `max_tokens`.
  static TokenBatch pad(std::span<const std::vector<std::int32_t>> sequences, std::int32_t pad_id = 0,
                        std::int64_t min_tokens = 1,
                        std::int64_t max_tokens = (std::numeric_limits<std::int64_t>::max)());
  /// Pairs of texts: firsts[i], of type 0, followed by seconds[i], of type 1, as BERT takes them where the one is
  /// `[CLS] a [SEP]` and the other `b [SEP]`. Padding is of type 0. Throws as `pad`, and ValueError unless there are as
  /// many of each.
  static TokenBatch pad_pairs(std::span<const std::vector<std::int32_t>> firsts,
                              std::span<const std::vector<std::int32_t>> seconds, std::int32_t pad_id = 0,
                              std::int64_t min_tokens = 1,
                              std::int64_t max_tokens = (std::numeric_limits<std::int64_t>::max)());
};

/// How one vector is made of a text's tokens, as sentence-transformers' `Pooling` does it. Padding, on either side,
/// takes no part.
enum class TokenPooling {
  kCls,             ///< the first token
  kMax,             ///< the largest of each feature
  kMean,            ///<
  kMeanSqrtLength,  ///< the sum over the square root of the number of tokens
  kWeightedMean,    ///< the mean with weights 1, 2, 3, …
  kLastToken,       ///<
};

/// x [batch, tokens, width] to [batch, width]; `valid` bool [batch, tokens], or undefined where there is no padding.
/// Throws ShapeError, and ValueError for a text without a valid token.
Variable pool_tokens(const Variable& x, const Tensor& valid, TokenPooling pooling);

}  // namespace tapecache::models
