#include "pair_batches.h"

#include <algorithm>
#include <span>
#include <string_view>
#include <unordered_map>
#include <utility>

namespace tapecache::program {

namespace {

/// Numbers of texts, where equal ones have the same. Undefined where all differ.
Tensor numbers_of(const std::vector<std::string>& texts) {
  std::unordered_map<std::string_view, std::int64_t> numbers;
  std::vector<std::int64_t> ids;
  ids.reserve(texts.size());
  for (const std::string& text : texts) {
    ids.push_back(numbers.emplace(text, static_cast<std::int64_t>(numbers.size())).first->second);
  }
  return numbers.size() == texts.size() ? Tensor() : Tensor::from(ids, {static_cast<std::int64_t>(ids.size())});
}

}  // namespace

Shares PairBatch::targets_of_all() const {
  Shares shares = pairs;
  const std::int64_t each = static_cast<std::int64_t>(target_texts.size()) / size();
  for (std::int64_t& count : shares.counts) count *= each;
  return shares;
}

PairBatches::PairBatches(const PairsFile& pairs, const TextModel& model, const Prefixes& prefixes,
                         const ImageEncoder* images, const LoadingOptions& loading)
    : pairs_(pairs), model_(model), prefixes_(prefixes), images_(images), seed_(loading.seed) {
  require_texts(pairs.paths(), pairs.source(), model);
  if (pairs.images()) work_ = std::make_unique<WorkAhead>(loading.threads);
}

void PairBatches::load_ahead(const std::vector<std::int64_t>& rows, const Shares& shares,
                             std::optional<std::uint32_t> epoch) {
  if (!pairs_.images()) return;
  const std::span<const std::int64_t> own = shares.of(rows);
  loading_.assign(own.begin(), own.end());
  pixels_ = images_->empty_pixels(shares.own());
  // The job has what it needs: it may go on where its batch is no longer asked for.
  work_->start(pixels_.size(0),
               [this, numbers = loading_, epoch, pairs = pairs_.read(own), pixels = pixels_,
                bytes = pixels_.mutable_data<std::uint8_t>(), each = pixels_.bytes() / own.size()](std::int64_t i) {
                 const auto row = static_cast<std::uint32_t>(numbers[static_cast<std::size_t>(i)]);
                 std::uint8_t* const place = bytes + static_cast<std::size_t>(i) * each;
                 if (epoch) images_->read_for_training(pairs.image(i), seed_, *epoch, row, place);
                 else images_->read(pairs.image(i), place);
               });
}

PairBatches::Parts PairBatches::read(const std::vector<std::int64_t>& rows, const Shares& shares,
                                     std::optional<std::uint32_t> epoch) {
  Pairs chosen = pairs_.read(rows);
  Parts parts;
  PairBatch& batch = parts.batch;
  batch.pairs = shares;
  batch.anchor_texts = std::move(chosen.anchors);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    batch.target_texts.push_back(std::move(chosen.positives[i]));
    const auto negatives = static_cast<std::size_t>(chosen.hard_negatives);
    const auto first = chosen.negatives.begin() + static_cast<std::ptrdiff_t>(i * negatives);
    batch.target_texts.insert(batch.target_texts.end(), first, first + static_cast<std::ptrdiff_t>(negatives));
  }
  if (pairs_.images()) {
    if (!std::ranges::equal(loading_, shares.of(rows))) load_ahead(rows, shares, epoch);
    loading_.clear();
    work_->finish();
    batch.pixels = std::exchange(pixels_, {});
  } else {
    parts.anchors = ids_of(shares.of(batch.anchor_texts), prefixes_.query);
  }
  parts.targets = ids_of(batch.targets_of_all().of(batch.target_texts), prefixes_.passage);
  batch.equal = {.target_ids = numbers_of(batch.target_texts), .query_ids = numbers_of(batch.anchor_texts)};
  return parts;
}

std::vector<std::vector<std::int32_t>> PairBatches::ids_of(std::span<const std::string> texts,
                                                           const std::string& prefix) const {
  try {
    return model_.ids(texts, prefix);
  } catch (const TextWithoutTokens& e) {
    throw pairs_.source().error(e.text(), e.what());
  }
}

std::uint64_t PairBatches::fingerprint(const std::vector<std::int64_t>& rows) const {
  const Pairs pairs = pairs_.read(rows);
  Fingerprint all;
  const auto add = [&](const std::vector<std::string>& texts, const std::string& prefix) {
    for (const auto& ids : ids_of(texts, prefix)) all.add(std::as_bytes(std::span(ids)));
  };
  if (!pairs.images) add(pairs.anchors, prefixes_.query);
  add(pairs.positives, prefixes_.passage);
  return all.value();
}

std::array<std::int64_t, 2> PairBatches::Parts::longest() const {
  const auto longest_of = [](const std::vector<std::vector<std::int32_t>>& texts) {
    std::size_t longest = 1;
    for (const auto& ids : texts) longest = std::max(longest, ids.size());
    return static_cast<std::int64_t>(longest);
  };
  return {longest_of(anchors), longest_of(targets)};
}

PairBatch PairBatches::padded(Parts parts, const std::array<std::int64_t, 2>& tokens) const {
  if (!parts.batch.pixels.defined()) parts.batch.anchors = model_.padded(parts.anchors, tokens[0]);
  parts.batch.targets = model_.padded(parts.targets, tokens[1]);
  return std::move(parts.batch);
}

PairBatch PairBatches::batch(const std::vector<std::int64_t>& rows) {
  Parts parts = read(rows, Shares::alone(static_cast<std::int64_t>(rows.size())));
  const auto longest = parts.longest();
  return padded(std::move(parts), longest);
}

PairBatch first_pairs(const PairBatch& batch, std::int64_t count) {
  const auto processes = static_cast<std::int64_t>(batch.pairs.counts.size());
  const std::int64_t each = std::max<std::int64_t>(1, count / processes);
  const std::int64_t targets_each = static_cast<std::int64_t>(batch.target_texts.size()) / batch.size();
  PairBatch first;
  first.pairs = batch.pairs;
  for (std::size_t begin = 0; std::int64_t & pairs : first.pairs.counts) {
    const auto all = static_cast<std::size_t>(std::exchange(pairs, std::min(pairs, each)));
    const auto some = static_cast<std::size_t>(pairs), targets = static_cast<std::size_t>(targets_each);
    const auto add = [](std::vector<std::string>& to, const std::vector<std::string>& from, std::size_t at,
                        std::size_t number) {
      const auto place = from.begin() + static_cast<std::ptrdiff_t>(at);
      to.insert(to.end(), place, place + static_cast<std::ptrdiff_t>(number));
    };
    add(first.anchor_texts, batch.anchor_texts, begin, some);
    add(first.target_texts, batch.target_texts, begin * targets, some * targets);
    begin += all;
  }
  if (batch.pixels.defined()) first.pixels = batch.pixels.slice(0, first.pairs.own());
  else first.anchors = batch.anchors.slice(0, first.pairs.own());
  first.targets = batch.targets.slice(0, first.pairs.own() * targets_each);
  first.equal = {.target_ids = numbers_of(first.target_texts), .query_ids = numbers_of(first.anchor_texts)};
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
