#include "tapecache/data/tokenizers/bpe.h"

#include <algorithm>
#include <queue>
#include <tuple>

#include <fmt/format.h>

#include "tapecache/data/tokenizers/byte_tokens.h"
#include "tapecache/data/tokenizers/unicode.h"

namespace tapecache::data::tokenizers {

namespace {

constexpr char32_t kTwoBytesEnd = 0x800;

std::uint64_t pair_of(std::int32_t left, std::int32_t right) {
  return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 | static_cast<std::uint32_t>(right);
}

std::size_t place_of(std::uint64_t pair) {
  pair *= 0x9E3779B97F4A7C15;
  return static_cast<std::size_t>(pair >> 20 ^ pair >> 44);
}

}  // namespace

Bpe::Bpe(const Field& field) {
  field.check_keys({"type", "vocab", "merges", "dropout", "unk_token", "continuing_subword_prefix",
                    "end_of_word_suffix", "fuse_unk", "byte_fallback", "ignore_merges"});
  if (const auto dropout = field.find("dropout"); dropout && dropout->number() != 0) {
    throw dropout->refused("a dropout of merges is not supported: expected null or 0");
  }
  vocabulary_ = read_vocabulary(field.at("vocab"));
  if (const auto token = field.find("unk_token")) {
    has_unknown_ = true;
    unknown_ = vocabulary_.find(token->string());
  }
  if (const auto prefix = field.find("continuing_subword_prefix")) prefix_ = prefix->string();
  if (const auto suffix = field.find("end_of_word_suffix")) suffix_ = suffix->string();
  fuse_unknown_ = field.boolean_or("fuse_unk", false);
  byte_fallback_ = field.boolean_or("byte_fallback", false);
  ignore_merges_ = field.boolean_or("ignore_merges", false);
  if (byte_fallback_) bytes_ = byte_tokens(vocabulary_);
  read_merges(field.at("merges"));
  std::string character;
  for (char32_t c = 0; c < kTwoBytesEnd; ++c) {
    character.clear();
    append_character(character, c);
    characters_.push_back(vocabulary_.find(character));
  }
}

void Bpe::read_merges(const Field& field) {
  const std::size_t count = field.size();
  std::size_t places = 16;
  while (places < 2 * count) places *= 2;
  merges_.assign(places, {kFree, 0, 0});
  for (std::size_t i = 0; i < count; ++i) {
    const Field rule = field[i];
    const auto rank = static_cast<std::int32_t>(i);
    if (rule.is_array()) {
      if (rule.size() != 2) throw rule.refused(fmt::format("{} elements, expected two tokens", rule.size()));
      add_merge(rule, rule[0].string(), rule[1].string(), rank);
      continue;
    }
    const std::string_view text = rule.string();
    const std::size_t blank = text.find(' ');
    if (blank == text.npos || text.find(' ', blank + 1) != text.npos) {
      throw rule.refused(fmt::format("'{}', expected two tokens with one blank between them", text));
    }
    add_merge(rule, text.substr(0, blank), text.substr(blank + 1), rank);
  }
}

void Bpe::add_merge(const Field& field, std::string_view left, std::string_view right, std::int32_t rank) {
  if (right.size() < prefix_.size()) {
    throw field.refused(fmt::format("'{}' lacks the prefix '{}' of what goes on", right, prefix_));
  }
  const auto known = [&](std::string_view token) {
    const std::int32_t id = vocabulary_.find(token);
    if (id == kNone) throw field.refused(fmt::format("'{}' is not in the vocabulary", token));
    return id;
  };
  const std::uint64_t pair = pair_of(known(left), known(right));
  const std::int32_t merged = known(std::string(left).append(right.substr(prefix_.size())));
  std::size_t place = place_of(pair) & (merges_.size() - 1);
  while (merges_[place].pair != kFree && merges_[place].pair != pair) place = (place + 1) & (merges_.size() - 1);
  merges_[place] = {pair, rank, merged};  // of two rules for the same pair the later counts, as to the reference
}

const Bpe::Merge* Bpe::merge_of(std::int32_t left, std::int32_t right) const {
  const std::uint64_t pair = pair_of(left, right);
  std::size_t place = place_of(pair) & (merges_.size() - 1);
  while (merges_[place].pair != kFree) {
    if (merges_[place].pair == pair) return &merges_[place];
    place = (place + 1) & (merges_.size() - 1);
  }
  return nullptr;
}

std::int32_t Bpe::id_of_character(std::string_view piece, std::size_t begin, std::size_t end) const {
  const bool prefixed = begin > 0 && !prefix_.empty(), suffixed = end == piece.size() && !suffix_.empty();
  const std::string_view character = piece.substr(begin, end - begin);
  if (prefixed || suffixed) {
    return vocabulary_.find(std::string(prefixed ? prefix_ : "").append(character).append(suffixed ? suffix_ : ""));
  }
  std::size_t at = begin;
  return character.size() <= 2 ? characters_[next_character(piece, at)] : vocabulary_.find(character);
}

void Bpe::take_characters(std::string_view piece, std::vector<std::int32_t>& symbols) const {
  bool unknown_waits = false;
  const auto end_unknown = [&] {
    if (unknown_waits) symbols.push_back(unknown_);
    unknown_waits = false;
  };
  for (std::size_t begin = 0, end; begin < piece.size(); begin = end) {
    end = begin + character_size(piece[begin]);
    const std::int32_t id = id_of_character(piece, begin, end);
    if (id != kNone) {
      end_unknown();
      symbols.push_back(id);
      continue;
    }
    if (byte_fallback_) {
      const std::string bytes = std::string(begin > 0 ? prefix_ : "")
                                    .append(piece.substr(begin, end - begin))
                                    .append(end == piece.size() ? suffix_ : "");
      // Unknown characters before these bytes come after them, as in the reference.
      if (append_byte_tokens(bytes_, bytes, symbols)) continue;
    }
    if (!has_unknown_) continue;  // dropped, as in the reference
    if (unknown_ == kNone) no_token(piece);
    if (!fuse_unknown_) end_unknown();
    unknown_waits = true;
  }
  end_unknown();
}

/// Looks at all pairs for each merge.
void Bpe::merge_few(std::vector<std::int32_t>& symbols) const {
  thread_local std::vector<const Merge*> merges;  // of each symbol and the next
  merges.clear();
  for (std::size_t i = 0; i + 1 < symbols.size(); ++i) merges.push_back(merge_of(symbols[i], symbols[i + 1]));
  while (true) {
    const Merge* best = nullptr;
    std::size_t at = 0;
    for (std::size_t i = 0; i < merges.size(); ++i) {
      if (merges[i] && (!best || merges[i]->rank < best->rank)) best = merges[i], at = i;
    }
    if (!best) return;
    symbols[at] = best->id;
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(at) + 1);
    merges.erase(merges.begin() + static_cast<std::ptrdiff_t>(at));
    if (at > 0) merges[at - 1] = merge_of(symbols[at - 1], symbols[at]);
    if (at < merges.size()) merges[at] = merge_of(symbols[at], symbols[at + 1]);
  }
}

/// Keeps the pairs in a queue.
void Bpe::merge_many(std::vector<std::int32_t>& symbols) const {
  struct Symbol {
    std::int32_t id;
    std::size_t previous, next;
  };
  struct Candidate {
    std::int32_t rank;
    std::size_t at;
    std::int32_t left, right, id;
    bool operator>(const Candidate& other) const { return std::tie(rank, at) > std::tie(other.rank, other.at); }
  };
  const std::size_t none = symbols.size();
  std::vector<Symbol> chain;
  for (std::size_t i = 0; i < symbols.size(); ++i) chain.push_back({symbols[i], i == 0 ? none : i - 1, i + 1});
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto offer = [&](std::size_t at) {
    if (at == none || chain[at].next == none) return;
    const std::int32_t left = chain[at].id, right = chain[chain[at].next].id;
    if (const Merge* merge = merge_of(left, right)) queue.push({merge->rank, at, left, right, merge->id});
  };
  for (std::size_t i = 0; i < symbols.size(); ++i) offer(i);
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol& left = chain[best.at];
    // It may have changed since the pair was put into the queue.
    if (left.id != best.left || left.next == none || chain[left.next].id != best.right) continue;
    Symbol& right = chain[left.next];
    left.id = best.id;
    left.next = right.next;
    right.id = kNone;
    if (left.next != none) chain[left.next].previous = best.at;
    offer(left.previous);
    offer(best.at);
  }
  symbols.clear();
  for (const Symbol& symbol : chain) {
    if (symbol.id != kNone) symbols.push_back(symbol.id);
  }
}

void Bpe::encode(std::string_view piece, std::vector<std::int32_t>& ids) const {
  if (ignore_merges_) {
    if (const std::int32_t id = vocabulary_.find(piece); id != kNone) {
      ids.push_back(id);
      return;
    }
  }
  constexpr std::size_t kFew = 48;
  thread_local std::vector<std::int32_t> symbols;
  symbols.clear();
  take_characters(piece, symbols);
  if (symbols.size() <= kFew) merge_few(symbols);
  else merge_many(symbols);
  ids.insert(ids.end(), symbols.begin(), symbols.end());
}

}  // namespace tapecache::data::tokenizers
