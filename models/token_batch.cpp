#include "tapecache/models/token_batch.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

namespace tapecache::models {

TokenBatch TokenBatch::slice(std::int64_t begin, std::int64_t end) const {
  return {ids.slice(begin, end), valid.defined() ? valid.slice(begin, end) : Tensor()};
}

TokenBatch TokenBatch::pad(std::span<const std::vector<std::int32_t>> sequences, std::int32_t pad_id,
                           std::int64_t min_tokens, std::int64_t max_tokens) {
  if (sequences.empty()) throw ValueError("token batch: no sequences, expected at least one");
  if (min_tokens > max_tokens) {
    throw ValueError(fmt::format("token batch: min_tokens is {}, expected at most max_tokens, {}", min_tokens,
                                 max_tokens));
  }
  std::size_t tokens = static_cast<std::size_t>(std::max<std::int64_t>(1, min_tokens));
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    if (sequences[i].empty()) throw ValueError(fmt::format("token batch: sequence {} is empty", i));
    if (std::cmp_greater(sequences[i].size(), max_tokens)) {
      throw ShapeError(fmt::format("token batch: sequence {} has {} tokens, expected at most {}", i,
                                   sequences[i].size(), max_tokens));
    }
    tokens = std::max(tokens, sequences[i].size());
  }
  const Shape shape{static_cast<std::int64_t>(sequences.size()), static_cast<std::int64_t>(tokens)};
  TokenBatch batch{Tensor::full(shape, pad_id, DType::kInt32), Tensor::zeros(shape, DType::kBool)};
  std::int32_t* id = batch.ids.mutable_data<std::int32_t>();
  bool* valid = batch.valid.mutable_data<bool>();
  for (const auto& sequence : sequences) {
    std::copy(sequence.begin(), sequence.end(), id);
    std::fill(valid, valid + sequence.size(), true);
    id += tokens;
    valid += tokens;
  }
  return batch;
}

}  // namespace tapecache::models
