#include "tapecache/models/token_batch.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "tapecache/core/value_checks.h"

namespace tapecache::models {

namespace {

void check_ids(const char* model, const Tensor& ids, std::int64_t max_tokens, std::int64_t vocabulary) {
  if (!ids.defined() || ids.rank() != 2 || ids.size(1) < 1 || ids.size(1) > max_tokens) {
    throw ShapeError(
        fmt::format("{}: ids are {}, expected [batch, tokens] with 1 to {} tokens", model, describe(ids), max_tokens));
  }
  if (ids.dtype() != DType::kInt32 && ids.dtype() != DType::kInt64) {
    throw DTypeError(fmt::format("{}: ids are {}, expected int32 or int64", model, name(ids.dtype())));
  }
  checked_indices(ids, vocabulary, [&] {
    return CheckText{fmt::format("{}: token {{column}} of sample {{row}} is {{value}}, expected an id from 0 to {}",
                                 model, vocabulary - 1),
                     ids.size(1)};
  });
}

void check_mask(const char* model, const Tensor& valid, const Shape& expected) {
  if (valid.dtype() != DType::kBool) {
    throw DTypeError(fmt::format("{}: valid is {}, expected bool", model, name(valid.dtype())));
  }
  if (valid.shape() != expected) {
    throw ShapeError(fmt::format("{}: valid has shape {}, expected that of the ids, {}", model,
                                 to_string(valid.shape()), to_string(expected)));
  }
}

void check_types_shape(const char* model, const Tensor& types, const Shape& expected) {
  if (types.shape() != expected) {
    throw ShapeError(fmt::format("{}: types have shape {}, expected that of the ids, {}", model,
                                 to_string(types.shape()), to_string(expected)));
  }
}

void check_layout(const TokenBatch& tokens) {
  if (tokens.ids.rank() != 2) {
    throw ShapeError(fmt::format("token batch: ids are {}, expected [batch, tokens]", describe(tokens.ids)));
  }
  if (tokens.valid.defined()) check_mask("token batch", tokens.valid, tokens.ids.shape());
  if (tokens.types.defined()) check_types_shape("token batch", tokens.types, tokens.ids.shape());
}

/// The first `longest` of each row [rows, tokens], for these rows in their order, where the tensor is.
Tensor select_rows(const Tensor& from, std::span<const std::int64_t> rows, std::int64_t longest) {
  const Tensor host = from.to(Device::cpu());
  Tensor chosen = Tensor::empty({static_cast<std::int64_t>(rows.size()), longest}, from.dtype());
  const auto width = static_cast<std::int64_t>(size_of(from.dtype()));
  std::byte* place = chosen.mutable_raw();
  for (const std::int64_t i : rows) {
    std::copy_n(host.raw() + i * from.size(1) * width, longest * width, place);
    place += longest * width;
  }
  return chosen.to(from.device());
}

}  // namespace

TokenBatch TokenBatch::slice(std::int64_t begin, std::int64_t end) const {
  check_layout(*this);
  return map_tensors([&](const Tensor& t) { return t.slice(begin, end); });
}

TokenBatch TokenBatch::to(Device device) const {
  return map_tensors([&](const Tensor& t) { return t.to(device); });
}

TokenBatch TokenBatch::pinned() const {
  return map_tensors([](const Tensor& t) { return t.pinned(); });
}

std::uint64_t TokenBatch::version() const {
  std::uint64_t sum = 0;
  for (const Tensor* t : {&ids, &valid, &types}) sum += t->defined() ? t->version() : 0;
  return sum;
}

std::vector<std::int64_t> TokenBatch::lengths() const {
  check_layout(*this);
  const std::int64_t tokens = ids.size(1);
  std::vector<std::int64_t> result(static_cast<std::size_t>(size()), tokens);
  if (!valid.defined()) return result;
  const Tensor host = valid.to(Device::cpu());
  for (std::int64_t i = 0; i < size(); ++i) {
    const bool* row = host.data<bool>() + i * tokens;
    std::int64_t length = tokens;
    while (length > 0 && !row[length - 1]) --length;
    result[static_cast<std::size_t>(i)] = length;
  }
  return result;
}

TokenBatch TokenBatch::select(std::span<const std::int64_t> sequences) const {
  const std::vector<std::int64_t> all = lengths();
  std::int64_t longest = std::min<std::int64_t>(1, ids.size(1));
  for (const std::int64_t i : sequences) {
    if (i < 0 || i >= size()) {
      throw ValueError(fmt::format("token batch: select: sequence {}, expected one of the {} from 0", i, size()));
    }
    longest = std::max(longest, all[static_cast<std::size_t>(i)]);
  }
  return map_tensors([&](const Tensor& t) { return select_rows(t, sequences, longest); });
}

TokenBatch TokenBatch::pad(std::span<const std::vector<std::int32_t>> sequences, std::int32_t pad_id,
                           std::int64_t min_tokens, std::int64_t max_tokens) {
  if (sequences.empty()) throw ValueError("token batch: no sequences, expected at least one");
  if (min_tokens > max_tokens) {
    throw ValueError(
        fmt::format("token batch: min_tokens is {}, expected at most max_tokens, {}", min_tokens, max_tokens));
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

TokenBatch TokenBatch::pad_pairs(std::span<const std::vector<std::int32_t>> firsts,
                                 std::span<const std::vector<std::int32_t>> seconds, std::int32_t pad_id,
                                 std::int64_t min_tokens, std::int64_t max_tokens) {
  if (firsts.size() != seconds.size()) {
    throw ValueError(fmt::format("token batch: {} first and {} second texts, expected as many of each", firsts.size(),
                                 seconds.size()));
  }
  std::vector<std::vector<std::int32_t>> joined(firsts.begin(), firsts.end());
  for (std::size_t i = 0; i < joined.size(); ++i)
    joined[i].insert(joined[i].end(), seconds[i].begin(), seconds[i].end());
  TokenBatch batch = pad(joined, pad_id, min_tokens, max_tokens);
  batch.types = Tensor::zeros(batch.ids.shape(), DType::kInt32);
  std::int32_t* row = batch.types.mutable_data<std::int32_t>();
  for (std::size_t i = 0; i < joined.size(); ++i, row += batch.ids.size(1)) {
    std::fill(row + firsts[i].size(), row + joined[i].size(), 1);
  }
  return batch;
}

void TokenBatch::check(const char* model, std::int64_t max_tokens, std::int64_t vocabulary,
                       std::int64_t known_types) const {
  check_ids(model, ids, max_tokens, vocabulary);
  if (types.defined()) {
    if (known_types == 0) throw ValueError(fmt::format("{}: the tokens have types, expected none", model));
    check_types_shape(model, types, ids.shape());
  }
  if (!valid.defined()) return;
  check_mask(model, valid, ids.shape());
  require_true_in_each_row(valid,
                           {fmt::format("{}: sample {{position}} has no valid token, expected at least one", model)});
}

}  // namespace tapecache::models
