#include "tapecache/data/tokenizers/added_tokens.h"

#include <algorithm>
#include <set>
#include <utility>

#include <fmt/format.h>

namespace tapecache::data::tokenizers {

AddedTokens::AddedTokens(const Field& field, const Normalizer* normalizer, Vocabulary& vocabulary) {
  std::vector<std::pair<std::string, std::int32_t>> originals, normalized;
  std::set<std::string> seen_originals, seen_normalized;
  for (std::size_t i = 0; i < field.size(); ++i) {
    const Field token = field[i];
    token.check_keys({"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
    const std::string& content = token.at("content").string();
    if (content.empty()) continue;  // as the reference does
    const std::int32_t id = token.at("id").id();
    if (const std::int32_t known = vocabulary.find(content); known != kNone && known != id) {
      throw token.at("id").refused(fmt::format("{}, but '{}' is {} in the vocabulary", id, content, known));
    }
    if (const auto other = vocabulary.token(id); other && *other != content) {
      throw token.at("id").refused(fmt::format("{} of '{}' is that of '{}'", id, content, *other));
    }
    vocabulary.add(content, id);
    Normalized form;
    form.take(content, false);
    const bool by_normal_form = token.boolean_or("normalized", true);
    if (by_normal_form && normalizer) normalizer->apply(form);
    if (form.text.empty()) throw token.at("content").refused(fmt::format("'{}' is normalised to nothing", content));
    if (!(by_normal_form ? seen_normalized : seen_originals).insert(form.text).second) {
      throw token.at("content").refused(fmt::format("two added tokens are found as '{}'", form.text));
    }
    (by_normal_form ? normalized : originals).emplace_back(form.text, static_cast<std::int32_t>(rules_.size()));
    rules_.push_back({id, token.boolean_or("single_word", false), token.boolean_or("lstrip", false),
                      token.boolean_or("rstrip", false)});
  }
  originals_ = Trie(std::move(originals));
  normalized_ = Trie(std::move(normalized));
}

AddedTokens::Found AddedTokens::find(const Trie& tokens, std::string_view text, std::size_t from) {
  for (std::size_t at = from; at < text.size(); ++at) {
    if (!tokens.may_begin(text[at])) continue;
    const auto [bytes, rule] = tokens.longest(text.substr(at));
    if (bytes > 0) return {at, at + bytes, rule};
  }
  return {text.size(), text.size(), Trie::kNoValue};
}

bool AddedTokens::is_single_word(std::string_view text, const Found& found) {
  std::size_t before = found.begin, behind = found.end;
  return (before == 0 || !is_word(previous_character(text, before))) &&
         (behind == text.size() || !is_word(next_character(text, behind)));
}

std::size_t AddedTokens::blanks_before(std::string_view text, std::size_t end, std::size_t done) {
  std::size_t begin = end;
  for (std::size_t at = end; at > 0 && is_whitespace(previous_character(text, at));) begin = at;
  return std::max(begin, done);
}

std::size_t AddedTokens::blanks_behind(std::string_view text, std::size_t begin) {
  std::size_t end = begin;
  for (std::size_t at = begin; at < text.size() && is_whitespace(next_character(text, at));) end = at;
  return end;
}

}  // namespace tapecache::data::tokenizers
