#include "tapecache/data/tokenizers/unigram.h"

#include <algorithm>
#include <limits>
#include <utility>

#include <fmt/format.h>

#include "tapecache/data/tokenizers/byte_tokens.h"
#include "tapecache/data/tokenizers/unicode.h"

namespace tapecache::data::tokenizers {

Unigram::Unigram(const Field& field) {
  field.check_keys({"type", "vocab", "unk_id", "byte_fallback", "sentencepiece_kinds", "sentencepiece_prefix"});
  const Field vocabulary = field.at("vocab");
  const std::size_t count = vocabulary.size();
  if (count > static_cast<std::size_t>(kMaxTokens)) {
    throw vocabulary.refused(fmt::format("{} tokens, expected at most {}", count, kMaxTokens));
  }
  const auto kinds = field.find("sentencepiece_kinds");
  if (kinds && kinds->size() != count) throw kinds->refused(fmt::format("{} of {} tokens", kinds->size(), count));
  rounds_ = kinds.has_value();
  const auto is_of_texts = [&](std::size_t i) { return !kinds || (*kinds)[i].integer(kMaxTokens) == 1; };
  double lowest = std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < count; ++i) {
    const Field entry = vocabulary[i];
    if (entry.size() != 2)
      throw entry.refused(fmt::format("{} elements, expected a token and its score", entry.size()));
    vocabulary_.add(entry[0].string(), static_cast<std::int32_t>(i));
    scores_.push_back(entry[1].number());
    if (is_of_texts(i)) lowest = std::min(lowest, scores_.back());
  }
  constexpr double kPenalty = 10;  // the reference's
  unknown_score_ = lowest - kPenalty;
  if (rounds_) unknown_score_ = static_cast<float>(unknown_score_);
  if (const auto unknown = field.find("unk_id")) {
    unknown_ = static_cast<std::int32_t>(unknown->integer(static_cast<std::int64_t>(count)));
  }
  if (field.boolean_or("byte_fallback", false)) bytes_ = byte_tokens(vocabulary_);
  std::vector<std::pair<std::string, std::int32_t>> tokens;
  vocabulary_.for_each([&](std::string_view token, std::int32_t id) {
    if (!token.empty() && is_of_texts(static_cast<std::size_t>(id))) tokens.emplace_back(token, id);
  });
  tokens_ = Trie(std::move(tokens));
  if (const auto prefix = field.find("sentencepiece_prefix")) {
    std::vector<Best> best;
    find_best(prefix->string(), best);
    first_score_ = best.back().score;
  }
}

void Unigram::find_best(std::string_view piece, std::vector<Best>& best) const {
  best.assign(piece.size() + 1, {});
  best.front().score = first_score_;
  for (std::size_t begin = 0, character; begin < piece.size(); begin += character) {
    character = character_size(piece[begin]);
    const double so_far = best[begin].score;
    const auto offer = [&](std::size_t bytes, double score, std::int32_t id) {
      const double exact = so_far + score, sum = rounds_ ? static_cast<double>(static_cast<float>(exact)) : exact;
      Best& end = best[begin + bytes];
      if (!end.reached || sum > end.score) end = {sum, begin, id, true};
    };
    bool alone = false;
    tokens_.prefixes(piece.substr(begin), [&](std::size_t bytes, std::int32_t id) {
      offer(bytes, scores_[static_cast<std::size_t>(id)], id);
      alone = alone || bytes == character;
    });
    if (alone) continue;
    offer(character, unknown_score_, unknown_);
    if (best[begin + character].id == kNone) no_token(piece.substr(begin, character));
  }
}

void Unigram::encode(std::string_view piece, std::vector<std::int32_t>& ids) const {
  thread_local std::vector<Best> best;
  find_best(piece, best);
  struct Cut {
    std::size_t begin, end;
    std::int32_t id;
  };
  thread_local std::vector<Cut> cuts;  // the last first
  cuts.clear();
  for (std::size_t end = piece.size(); end > 0; end = best[end].begin) {
    const bool unknown = unknown_ != kNone && best[end].id == unknown_;
    if (unknown && !cuts.empty() && cuts.back().id == unknown_) cuts.back().begin = best[end].begin;
    else cuts.push_back({best[end].begin, end, best[end].id});
  }
  for (auto cut = cuts.rbegin(); cut != cuts.rend(); ++cut) {
    if (cut->id != unknown_ || unknown_ == kNone) {
      ids.push_back(cut->id);
      continue;
    }
    const std::string_view text = piece.substr(cut->begin, cut->end - cut->begin);
    const std::int32_t known = vocabulary_.find(text);  // what is unknown by parts may be a token as a whole
    if (known != kNone) ids.push_back(known);
    else if (bytes_.empty() || !append_byte_tokens(bytes_, text, ids)) ids.push_back(unknown_);
  }
}

}  // namespace tapecache::data::tokenizers
