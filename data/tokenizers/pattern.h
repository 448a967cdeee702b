#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "tapecache/data/tokenizers/fields.h"

struct pcre2_real_code_8;

#pragma GCC visibility push(hidden)

namespace tapecache::data::tokenizers {

/// What a text is searched for: a string or a regular expression, as {"String": …} or {"Regex": …} say.
class Pattern {
 public:
  struct Match {
    std::size_t begin, end;
  };

  explicit Pattern(const Field& field);
  /// Of a regular expression in the syntax that tokenizer files are written in. `where` is what a refusal names.
  Pattern(const Field& where, std::string_view expression);
  ~Pattern();
  Pattern(const Pattern&) = delete;
  Pattern& operator=(const Pattern&) = delete;

  /// `visit(begin, end, matches)` for the parts of a text, which are or are not matches, one after another.
  template <class Visit>
  void parts(std::string_view text, Visit visit) const {
    std::size_t done = 0, from = 0;
    std::optional<std::size_t> last_end;
    while (const auto match = find(text, from)) {
      const auto [begin, end] = *match;
      if (begin == end && last_end == end) {  // nothing, right behind a match
        if (end == text.size()) break;
        do ++from;
        while (from < text.size() && (text[from] & 0xC0) == 0x80);
        continue;
      }
      if (done < begin) visit(done, begin, false);
      visit(begin, end, true);
      done = from = end;
      last_end = end;
    }
    if (done < text.size()) visit(done, text.size(), false);
  }

 private:
  void compile(const Field& where, std::string_view expression);
  std::optional<Match> find(std::string_view text, std::size_t from) const;

  struct Release {
    void operator()(pcre2_real_code_8* code) const;
  };
  std::string string_;  // what to search for where there is no code
  std::unique_ptr<pcre2_real_code_8, Release> code_;
};

}  // namespace tapecache::data::tokenizers

#pragma GCC visibility pop
