#include "pair_batches.h"

#include <string_view>
#include <unordered_map>

namespace tapecache::program {

namespace {

/// Numbers of texts, where equal ones have the same. Undefined where all differ.
Tensor ids_of(const std::vector<std::string>& texts) {
  std::unordered_map<std::string_view, std::int64_t> numbers;
  std::vector<std::int64_t> ids;
  ids.reserve(texts.size());
  for (const std::string& text : texts) {
    ids.push_back(numbers.emplace(text, static_cast<std::int64_t>(numbers.size())).first->second);
  }
  return numbers.size() == texts.size() ? Tensor() : Tensor::from(ids, {static_cast<std::int64_t>(ids.size())});
}

}  // namespace

PairBatches::PairBatches(const Pairs& pairs, const TextModel& model, const Prefixes& prefixes)
    : pairs_(pairs), model_(model), prefixes_(prefixes) {}

PairBatch PairBatches::batch(const std::vector<std::int64_t>& rows) const {
  const Pairs chosen = pairs_.select(rows);
  PairBatch batch;
  batch.anchor_texts = chosen.anchors;
  for (std::size_t i = 0; i < chosen.anchors.size(); ++i) {
    batch.target_texts.push_back(chosen.positives[i]);
    const auto negatives = static_cast<std::size_t>(chosen.hard_negatives);
    const auto first = chosen.negatives.begin() + static_cast<std::ptrdiff_t>(i * negatives);
    batch.target_texts.insert(batch.target_texts.end(), first, first + static_cast<std::ptrdiff_t>(negatives));
  }
  batch.anchors = model_.tokens(batch.anchor_texts, prefixes_.query);
  batch.targets = model_.tokens(batch.target_texts, prefixes_.passage);
  batch.equal = {.target_ids = ids_of(batch.target_texts), .query_ids = ids_of(batch.anchor_texts)};
  return batch;
}

PairBatch first_pairs(const PairBatch& batch, std::int64_t count) {
  const std::int64_t targets = count * (batch.targets.size() / batch.anchors.size());
  PairBatch first;
  first.anchors = batch.anchors.slice(0, count);
  first.targets = batch.targets.slice(0, targets);
  first.anchor_texts.assign(batch.anchor_texts.begin(), batch.anchor_texts.begin() + count);
  first.target_texts.assign(batch.target_texts.begin(), batch.target_texts.begin() + targets);
  first.equal = {.target_ids = ids_of(first.target_texts), .query_ids = ids_of(first.anchor_texts)};
  return first;
}

std::vector<gradcache::Tower> towers_of(const PairBatch& batch, const TextModel& model) {
  const auto encode = [&model](const models::TokenBatch& tokens) { return model.representations(tokens); };
  return {{"anchor", batch.anchors, encode}, {"target", batch.targets, encode}};
}

}  // namespace tapecache::program
