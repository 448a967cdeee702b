#include "pair_batches.h"

#include <string_view>
#include <unordered_map>
#include <utility>

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

PairBatches::PairBatches(const Pairs& pairs, const TextModel& model, const Prefixes& prefixes,
                         const ImageEncoder* images, const LoadingOptions& loading)
    : pairs_(pairs), model_(model), prefixes_(prefixes), images_(images), seed_(loading.seed) {
  if (pairs.images) work_ = std::make_unique<WorkAhead>(loading.threads);
}

void PairBatches::load_ahead(const std::vector<std::int64_t>& rows, std::optional<std::uint32_t> epoch) {
  if (!pairs_.images) return;
  loading_ = rows;
  pixels_ = images_->empty_pixels(static_cast<std::int64_t>(rows.size()));
  // The job has what it needs: it may go on where its batch is no longer asked for.
  work_->start(pixels_.size(0), [this, rows, epoch, pixels = pixels_, bytes = pixels_.mutable_data<std::uint8_t>(),
                                 each = pixels_.bytes() / rows.size()](std::int64_t i) {
    const std::int64_t row = rows[static_cast<std::size_t>(i)];
    std::uint8_t* const place = bytes + static_cast<std::size_t>(i) * each;
    if (epoch) images_->read_for_training(pairs_.image(row), seed_, *epoch, static_cast<std::uint32_t>(row), place);
    else images_->read(pairs_.image(row), place);
  });
}

PairBatch PairBatches::batch(const std::vector<std::int64_t>& rows, std::optional<std::uint32_t> epoch) {
  const Pairs chosen = pairs_.select(rows);
  PairBatch batch;
  batch.anchor_texts = chosen.anchors;
  for (std::size_t i = 0; i < chosen.anchors.size(); ++i) {
    batch.target_texts.push_back(chosen.positives[i]);
    const auto negatives = static_cast<std::size_t>(chosen.hard_negatives);
    const auto first = chosen.negatives.begin() + static_cast<std::ptrdiff_t>(i * negatives);
    batch.target_texts.insert(batch.target_texts.end(), first, first + static_cast<std::ptrdiff_t>(negatives));
  }
  if (pairs_.images) {
    if (loading_ != rows) load_ahead(rows, epoch);
    loading_.clear();
    work_->finish();
    batch.pixels = std::exchange(pixels_, {});
  } else {
    batch.anchors = model_.tokens(batch.anchor_texts, prefixes_.query);
  }
  batch.targets = model_.tokens(batch.target_texts, prefixes_.passage);
  batch.equal = {.target_ids = ids_of(batch.target_texts), .query_ids = ids_of(batch.anchor_texts)};
  return batch;
}

PairBatch first_pairs(const PairBatch& batch, std::int64_t count) {
  const std::int64_t targets = count * (batch.targets.size() / batch.size());
  PairBatch first;
  if (batch.pixels.defined()) first.pixels = batch.pixels.slice(0, count);
  else first.anchors = batch.anchors.slice(0, count);
  first.targets = batch.targets.slice(0, targets);
  first.anchor_texts.assign(batch.anchor_texts.begin(), batch.anchor_texts.begin() + count);
  first.target_texts.assign(batch.target_texts.begin(), batch.target_texts.begin() + targets);
  first.equal = {.target_ids = ids_of(first.target_texts), .query_ids = ids_of(first.anchor_texts)};
  return first;
}

std::vector<gradcache::Tower> towers_of(const PairBatch& batch, const TextModel& model, const ImageEncoder* images) {
  const auto encode = [&model](const models::TokenBatch& tokens) { return model.representations(tokens); };
  if (batch.pixels.defined()) {
    const auto encode_images = [images](const Tensor& pixels) { return images->representations(pixels); };
    return {{"image", batch.pixels, encode_images}, {"text", batch.targets, encode}};
  }
  return {{"anchor", batch.anchors, encode}, {"target", batch.targets, encode}};
}

}  // namespace tapecache::program
