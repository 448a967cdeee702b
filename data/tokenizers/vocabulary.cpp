#include "tapecache/data/tokenizers/vocabulary.h"

namespace tapecache::data::tokenizers {

std::size_t Vocabulary::place_of(std::string_view token) const {
  const std::size_t mask = table_.size() - 1;
  std::size_t place = hash_of(token) & mask;
  while (table_[place] != 0 && text(entries_[table_[place] - 1]) != token) place = (place + 1) & mask;
  return place;
}

void Vocabulary::add(std::string_view token, std::int32_t id) {
  if (static_cast<std::size_t>(id) >= by_id_.size()) by_id_.resize(static_cast<std::size_t>(id) + 1);
  if (const std::uint32_t found = table_[place_of(token)]; found != 0) {
    Entry& entry = entries_[found - 1];
    if (by_id_[static_cast<std::size_t>(entry.id)] == found) by_id_[static_cast<std::size_t>(entry.id)] = 0;
    entry.id = id;
    by_id_[static_cast<std::size_t>(id)] = found;
    return;
  }
  entries_.push_back({text_.size(), token.size(), id});
  text_ += token;
  const auto number = static_cast<std::uint32_t>(entries_.size());
  by_id_[static_cast<std::size_t>(id)] = number;
  if (2 * entries_.size() <= table_.size()) {
    table_[place_of(token)] = number;
    return;
  }
  table_.assign(4 * table_.size(), 0);
  for (std::uint32_t i = 0; i < number; ++i) table_[place_of(text(entries_[i]))] = i + 1;
}

std::int32_t Vocabulary::find(std::string_view token) const {
  const std::uint32_t found = table_[place_of(token)];
  return found == 0 ? kNone : entries_[found - 1].id;
}

std::optional<std::string_view> Vocabulary::token(std::int32_t id) const {
  if (id < 0 || id >= end() || by_id_[static_cast<std::size_t>(id)] == 0) return std::nullopt;
  return text(entries_[by_id_[static_cast<std::size_t>(id)] - 1]);
}

}  // namespace tapecache::data::tokenizers
