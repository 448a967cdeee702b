#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tapecache/data/tokenizers/fields.h"
#include "tapecache/data/tokenizers/normalizers.h"
#include "tapecache/data/tokenizers/trie.h"
#include "tapecache/data/tokenizers/unicode.h"
#include "tapecache/data/tokenizers/vocabulary.h"

#pragma GCC visibility push(hidden)

namespace tapecache::data::tokenizers {

/// Tokens that a text is searched for before all else.
class AddedTokens {
 public:
  AddedTokens() = default;
  /// Of the field "added_tokens" of a tokenizer.json. Tokens that are not in the vocabulary are added to it.
  AddedTokens(const Field& field, const Normalizer* normalizer, Vocabulary& vocabulary);

  /// Calls `part(text)` and `token(id)` for the parts of a text as it was given, and the tokens between them.
  template <class Part, class Token>
  void split_original(std::string_view text, Part part, Token token) const {
    split(originals_, text, part, token);
  }
  /// The same for a text that has been normalised, and tokens that are to be.
  template <class Part, class Token>
  void split_normalized(std::string_view text, Part part, Token token) const {
    split(normalized_, text, part, token);
  }

 private:
  struct Rule {
    std::int32_t id;
    bool single_word, takes_left, takes_right;  // a word by itself; with the whitespace beside it
  };
  struct Found {
    std::size_t begin, end;
    std::int32_t rule;
  };

  template <class Part, class Token>
  void split(const Trie& tokens, std::string_view text, Part part, Token token) const {
    std::size_t done = 0, from = 0;
    while (!tokens.empty() && from < text.size()) {
      const Found found = find(tokens, text, from);
      if (found.rule == Trie::kNoValue) break;
      from = found.end;
      const Rule& rule = rules_[static_cast<std::size_t>(found.rule)];
      if (rule.single_word && !is_single_word(text, found)) continue;
      const std::size_t begin = rule.takes_left ? blanks_before(text, found.begin, done) : found.begin;
      if (done < begin) part(text.substr(done, begin - done));
      token(rule.id);
      done = rule.takes_right ? blanks_behind(text, found.end) : found.end;
    }
    if (done < text.size()) part(text.substr(done));
  }

  /// The first, and the longest of those.
  static Found find(const Trie& tokens, std::string_view text, std::size_t from);
  static bool is_single_word(std::string_view text, const Found& found);
  static std::size_t blanks_before(std::string_view text, std::size_t end, std::size_t done);
  static std::size_t blanks_behind(std::string_view text, std::size_t begin);

  std::vector<Rule> rules_;
  Trie originals_, normalized_;  // to which rule
};

}  // namespace tapecache::data::tokenizers

#pragma GCC visibility pop
