#include "tapecache/data/tokenizers/bert_normalizer.h"

#include "tapecache/data/tokenizers/unicode.h"

namespace tapecache::data::tokenizers {

namespace {

bool is_chinese(char32_t c) {
  return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) ||
         (c >= 0x2A700 && c <= 0x2B73F) || (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
         (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

}  // namespace

BertNormalizer::BertNormalizer(const Field& field) {
  field.check_keys({"type", "clean_text", "handle_chinese_chars", "strip_accents", "lowercase"});
  clean_ = field.at("clean_text").boolean();
  chinese_ = field.at("handle_chinese_chars").boolean();
  lowercase_ = field.at("lowercase").boolean();
  accents_ = !field.boolean_or("strip_accents", lowercase_);
}

void BertNormalizer::apply(Normalized& normalized) const {
  if (clean_ || chinese_) clean(normalized);
  if (!accents_) {
    if (!strip_by_character(normalized)) strip_by_normal_form(normalized);
  }
  if (lowercase_) lower(normalized);
}

void BertNormalizer::clean(Normalized& normalized) const {
  const std::string& text = normalized.text;
  std::string& result = normalized.spare;
  result.clear();
  for (std::size_t at = 0; at < text.size();) {
    const char byte = text[at];
    if (byte >= ' ' && byte < '\x7F') {
      result.push_back(byte);
      ++at;
      continue;
    }
    const bool first = at == 0;
    char32_t c = next_character(text, at);
    if (clean_) {
      const bool blank = is_whitespace(c);
      const bool kept_control = c == '\t' || c == '\n' || c == '\r';
      if (c == kReplacement || (!kept_control && is_control(c))) {
        normalized.late_start = normalized.late_start || first;
        continue;
      }
      if (blank) c = ' ';
    }
    const bool apart = chinese_ && is_chinese(c);
    if (apart) result.push_back(' ');
    append_character(result, c);
    if (apart) result.push_back(' ');
  }
  normalized.text.swap(normalized.spare);
}

/// Takes the marks off each character by itself. False where one that stays would have to be put in order.
bool BertNormalizer::strip_by_character(Normalized& normalized) const {
  const std::string& text = normalized.text;
  std::string& result = normalized.spare;
  result.clear();
  bool late = false;
  for (std::size_t at = 0; at < text.size();) {
    if (static_cast<signed char>(text[at]) >= 0) {
      result.push_back(text[at++]);
      continue;
    }
    const bool first = at == 0;
    char32_t parts[32];
    const int count = decompose(next_character(text, at), parts);
    for (int i = 0; i < count; ++i) {
      if (is_nonspacing_mark(parts[i])) {
        late = late || (first && i == 0);
        continue;
      }
      if (combining_class(parts[i]) != 0) return false;
      append_character(result, parts[i]);
    }
  }
  normalized.late_start = normalized.late_start || late;
  normalized.text.swap(normalized.spare);
  return true;
}

void BertNormalizer::strip_by_normal_form(Normalized& normalized) const {
  normal_form(normalized.text, Form::kD, normalized.spare);
  normalized.text.clear();
  for (std::size_t at = 0; at < normalized.spare.size();) {
    const bool first = at == 0;
    const char32_t c = next_character(normalized.spare, at);
    if (!is_nonspacing_mark(c)) append_character(normalized.text, c);
    else if (first) normalized.late_start = true;
  }
}

void BertNormalizer::lower(Normalized& normalized) const {
  const std::string& text = normalized.text;
  normalized.spare.clear();
  for (std::size_t at = 0; at < text.size();) append_lowercase(normalized.spare, next_character(text, at));
  normalized.text.swap(normalized.spare);
}

}  // namespace tapecache::data::tokenizers
