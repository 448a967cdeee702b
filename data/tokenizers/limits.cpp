#include "tapecache/data/tokenizers/limits.h"

#include <algorithm>
#include <string>
#include <utility>

#include <fmt/format.h>

namespace tapecache::data::tokenizers {

namespace {

constexpr std::int64_t kMaxLength = std::int64_t{1} << 62;
constexpr std::int64_t kMaxPadding = std::int64_t{1} << 24;

bool reads_left(const Field& field) {
  const std::string& direction = field.string();
  if (direction != "Left" && direction != "Right") {
    throw field.refused(fmt::format("'{}', expected Left or Right", direction));
  }
  return direction == "Left";
}

void keep(std::vector<std::int32_t>& ids, std::size_t count, bool left) {
  if (ids.size() <= count) return;
  const auto excess = static_cast<std::ptrdiff_t>(ids.size() - count);
  if (left) ids.erase(ids.begin(), ids.begin() + excess);
  else ids.resize(count);
}

}  // namespace

Truncation read_truncation(const Field& field) {
  field.check_keys({"direction", "max_length", "strategy", "stride"});
  Truncation truncation;
  truncation.max_tokens = field.at("max_length").integer(kMaxLength);
  if (const auto direction = field.find("direction")) truncation.left = reads_left(*direction);
  const std::string& strategy = field.at("strategy").string();
  if (strategy == "OnlyFirst") truncation.strategy = Truncation::Strategy::kOnlyFirst;
  else if (strategy == "OnlySecond") truncation.strategy = Truncation::Strategy::kOnlySecond;
  else if (strategy != "LongestFirst")
    throw field.at("strategy").refused(fmt::format("'{}', expected LongestFirst, OnlyFirst or OnlySecond", strategy));
  return truncation;
}

void truncate(const Truncation& truncation, std::size_t room, std::vector<std::int32_t>& first,
              std::vector<std::int32_t>* second) {
  const std::size_t total = first.size() + (second ? second->size() : 0);
  if (total <= room) return;
  if (room == 0) {
    first.clear();
    if (second) second->clear();
    return;
  }
  if (truncation.strategy == Truncation::Strategy::kLongestFirst) {
    if (!second) return keep(first, room, truncation.left);
    // The longer one alone, unless both are longer than half; of an odd number the longer one gets more.
    const bool swapped = first.size() > second->size();
    std::size_t shorter = std::min(first.size(), second->size());
    std::size_t longer = shorter > room ? shorter : std::max(shorter, room - shorter);
    if (shorter + longer > room) {
      shorter = room / 2;
      longer = shorter + room % 2;
    }
    keep(first, swapped ? longer : shorter, truncation.left);
    keep(*second, swapped ? shorter : longer, truncation.left);
    return;
  }
  const bool is_first = truncation.strategy == Truncation::Strategy::kOnlyFirst;
  std::vector<std::int32_t>* const cut = is_first ? &first : second;
  if (!cut) throw ValueError("tokenizer: truncation is of the second text only, but there is none");
  const std::size_t excess = total - room;
  if (cut->size() <= excess) {
    throw ValueError(fmt::format("tokenizer: {} tokens are too many, but the {} text, which truncation is of, has {}",
                                 excess, is_first ? "first" : "second", cut->size()));
  }
  keep(*cut, cut->size() - excess, truncation.left);
}

std::size_t Padding::length_for(std::size_t longest) const {
  std::size_t result = length ? static_cast<std::size_t>(*length) : longest;
  const auto step = static_cast<std::size_t>(multiple);
  if (result % step != 0) result += step - result % step;
  return result;
}

Padding read_padding(const Field& field) {
  field.check_keys({"strategy", "direction", "pad_to_multiple_of", "pad_id", "pad_type_id", "pad_token"});
  Padding padding;
  const Field strategy = field.at("strategy");
  if (strategy.is_object()) {
    strategy.check_keys({"Fixed"});
    padding.length = strategy.at("Fixed").integer(kMaxPadding);
  } else if (strategy.string() != "BatchLongest") {
    throw strategy.refused(fmt::format("'{}', expected BatchLongest or Fixed", strategy.string()));
  }
  if (const auto multiple = field.find("pad_to_multiple_of")) {
    padding.multiple = std::max<std::int64_t>(multiple->integer(kMaxPadding), 1);
  }
  padding.left = reads_left(field.at("direction"));
  padding.id = field.at("pad_id").id();
  padding.type = static_cast<std::int32_t>(field.at("pad_type_id").integer(std::int64_t{1} << 31));
  return padding;
}

}  // namespace tapecache::data::tokenizers
