#include "tapecache/data/tokenizers/siglip_normalizer.h"

#include "tapecache/data/tokenizers/unicode.h"

namespace tapecache::data::tokenizers {

namespace {

constexpr char32_t kShownBlank = 0x2581;
constexpr std::string_view kShown = "\u2581";

/// Of Python's `string.punctuation`.
bool is_ascii_punctuation(char32_t c) { return c < 0x80 && is_punctuation(c); }

/// As Python's `str.isspace`, which has four separators beside Unicode's blanks.
bool is_blank(char32_t c) { return is_whitespace(c) || (c >= 0x1C && c <= 0x1F) || c == kShownBlank; }

}  // namespace

SiglipNormalizer::SiglipNormalizer(const Field& field) : lower_cases_(field.at("lowercase").boolean()) {
  field.check_keys({"type", "lowercase", "precompiled_charsmap"});
  const Field charsmap = field.at("precompiled_charsmap");
  if (!charsmap.string().empty()) map_.emplace(charsmap);
}

void SiglipNormalizer::apply(Normalized& normalized) const {
  std::string lower;
  if (lower_cases_) append_lowercase_text(lower, normalized.text);
  put_words(lower_cases_ ? lower : normalized.text, normalized.starts_text, normalized.spare);
  map(normalized.spare, normalized.text);
}

/// The first text begins with a shown blank, before blanks of its own.
void SiglipNormalizer::put_words(std::string_view text, bool starts_text, std::string& result) const {
  result.assign(starts_text ? kShown : "");
  bool blank = false;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t begin = at;
    const char32_t c = next_character(text, at);
    if (is_ascii_punctuation(c)) continue;
    const bool is_word = !is_blank(c);
    if (is_word && blank && !result.empty()) result += ' ';
    if (is_word) result += text.substr(begin, at - begin);
    blank = !is_word;
  }
}

/// As SentencePiece does it, behind a text that does not end in a blank: the longest rule counts, runs of blanks are
/// one, and those at the end none.
void SiglipNormalizer::map(std::string_view text, std::string& result) const {
  result.clear();
  bool after_blank = false;
  for (std::size_t at = 0; at < text.size();) {
    const Precompiled::Rule rule = map_ ? map_->longest(text.substr(at)) : Precompiled::Rule{};
    const std::size_t size = rule.size > 0 ? rule.size : character_size(text[at]);
    std::string_view by = rule.size > 0 ? rule.by : text.substr(at, size);
    at += size;
    while (after_blank && by.starts_with(' ')) by.remove_prefix(1);
    for (const char c : by) {
      if (c == ' ') result += kShown;
      else result += c;
    }
    if (!by.empty()) after_blank = by.ends_with(' ');
  }
  while (result.ends_with(kShown)) result.resize(result.size() - kShown.size());
}

}  // namespace tapecache::data::tokenizers
