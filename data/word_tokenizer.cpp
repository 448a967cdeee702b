#include "tapecache/data/word_tokenizer.h"

#include <algorithm>
#include <cstddef>
#include <map>
#include <utility>

#include <fmt/format.h>

#include "tapecache/core/error.h"

namespace tapecache::data {
namespace {

// Written out rather than taken from <cctype>, whose answers depend on the program's locale.
char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

bool in_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
         static_cast<unsigned char>(c) >= 0x80;
}

/// Calls `visit(word)` for each lower-cased word until it returns false.
template <typename Visit>
void for_each_word(std::string_view text, Visit visit) {
  std::string word;
  for (std::size_t i = 0; i <= text.size(); ++i) {
    if (i < text.size() && in_word(text[i])) {
      word.push_back(lower(text[i]));
    } else if (!word.empty()) {
      if (!visit(word)) return;
      word.clear();
    }
  }
}

/// Whether a text can have this word: all else is split or lower-cased before it is looked up.
bool can_be_met(std::string_view word) {
  return !word.empty() && std::ranges::all_of(word, [](char c) { return in_word(c) && c == lower(c); });
}

}  // namespace

WordTokenizer::WordTokenizer(std::vector<std::string> words) : words_(std::move(words)) {
  ids_.reserve(words_.size());
  for (const std::string& word : words_) {
    if (!can_be_met(word)) {
      throw ValueError(
          fmt::format("WordTokenizer: word {}, '{}', can be in no text; expected lower-case ASCII letters, digits "
                      "and bytes of multi-byte UTF-8 characters",
                      ids_.size(), word));
    }
    const auto id = kFirstWord + static_cast<std::int32_t>(ids_.size());
    if (!ids_.emplace(word, id).second) {
      throw ValueError(fmt::format("WordTokenizer: word {}, '{}', is in the vocabulary twice", ids_.size(), word));
    }
  }
}

WordTokenizer WordTokenizer::build(std::span<const std::string> texts, int min_count) {
  if (min_count < 1) {
    throw ValueError(fmt::format("WordTokenizer::build: min_count is {}, expected at least 1", min_count));
  }
  std::map<std::string, std::size_t> counts;
  for (const std::string& text : texts) {
    for_each_word(text, [&](const std::string& word) {
      ++counts[word];
      return true;
    });
  }
  std::vector<std::pair<std::string, std::size_t>> kept;
  for (const auto& entry : counts) {
    if (entry.second >= static_cast<std::size_t>(min_count)) kept.push_back(entry);
  }
  // The map is in byte order already, which a stable sort keeps among equal counts.
  std::stable_sort(kept.begin(), kept.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
  std::vector<std::string> words;
  words.reserve(kept.size());
  for (auto& entry : kept) words.push_back(std::move(entry.first));
  return WordTokenizer(std::move(words));
}

std::vector<std::int32_t> WordTokenizer::encode(std::string_view text, int max_tokens) const {
  if (max_tokens < 2) {
    throw ValueError(fmt::format("WordTokenizer::encode: max_tokens is {}, expected at least 2", max_tokens));
  }
  const std::size_t room = static_cast<std::size_t>(max_tokens) - 1;
  std::vector<std::int32_t> tokens{kBegin};
  for_each_word(text, [&](const std::string& word) {
    if (const auto known = ids_.find(word); known != ids_.end()) {
      tokens.push_back(known->second);
    } else {
      for (const char byte : word) tokens.push_back(kFirstByte + static_cast<unsigned char>(byte));
    }
    return tokens.size() < room;
  });
  tokens.resize(std::min(tokens.size(), room));
  tokens.push_back(kEnd);
  return tokens;
}

}  // namespace tapecache::data
