#include "tapecache/data/tokenizers/open_clip_text.h"

#include <algorithm>
#include <array>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "tapecache/data/tokenizers/fields.h"
#include "tapecache/data/tokenizers/html_entities.h"
#include "tapecache/data/tokenizers/unicode.h"

namespace tapecache::data::tokenizers {

namespace {

/// As ftfy, which takes them for slips.
bool is_stray_control(char32_t c) {
  return c < 0x09 || c == 0x0B || (c >= 0x0E && c < 0x20) || c == 0x7F || (c >= 0x206A && c < 0x2070) || c == 0xFEFF ||
         (c >= 0xFFF9 && c < 0xFFFD);
}

bool is_single_quote(char32_t c) { return c == 0x2BC || (c >= 0x2018 && c <= 0x201B); }
bool is_double_quote(char32_t c) { return c >= 0x201C && c <= 0x201F; }

/// Latin letters that are one character for the sake of print or of old character sets.
constexpr std::array<std::pair<char32_t, std::string_view>, 22> kLigatures{{
    {0x132, "IJ"},      {0x133, "ij"},      {0x149, "\u02BCn"},  {0x1F1, "DZ"},  {0x1F2, "Dz"},  {0x1F3, "dz"},
    {0x1C4, "D\u017D"}, {0x1C5, "D\u017E"}, {0x1C6, "d\u017E"},  {0x1C7, "LJ"},  {0x1C8, "Lj"},  {0x1C9, "lj"},
    {0x1CA, "NJ"},      {0x1CB, "Nj"},      {0x1CC, "nj"},       {0xFB00, "ff"}, {0xFB01, "fi"}, {0xFB02, "fl"},
    {0xFB03, "ffi"},    {0xFB04, "ffl"},    {0xFB05, "\u017Ft"}, {0xFB06, "st"},
}};

std::string_view letters_of(char32_t c) {
  for (const auto& [ligature, letters] : kLigatures) {
    if (c == ligature) return letters;
  }
  return {};
}

/// The size of a code that sets a terminal's colours, which a text begins with; 0 where it does not.
std::size_t size_of_terminal_code(std::string_view text) {
  if (!text.starts_with("\033[")) return 0;
  const std::size_t end = text.find_first_not_of("0123456789;", 2);
  if (end == text.npos) return 0;
  const char last = static_cast<char>(text[end] | 0x20);
  return last >= 'a' && last <= 'z' ? end + 1 : 0;
}

/// One pass of ftfy's over characters that are wrong by themselves, and their normal form.
std::string mended_once(std::string_view text) {
  std::string result, wide;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t begin = at;
    const char32_t c = next_character(text, at);
    if (const std::size_t code = size_of_terminal_code(text.substr(begin)); code > 0) at = begin + code;
    if (is_stray_control(c)) continue;
    const std::string_view letters = letters_of(c);
    if (!letters.empty()) {
      // The letter of one is a quotation mark by then.
      result += c == 0x149 ? std::string_view("'n") : letters;
    } else if (is_single_quote(c)) {
      result += '\'';
    } else if (is_double_quote(c)) {
      result += '"';
    } else if (c == 0x3000) {
      result += ' ';
    } else if (c >= 0xFF01 && c < 0xFFF0) {
      normal_form(text.substr(begin, at - begin), Form::kKC, wide);
      result += wide;
    } else {
      result += text.substr(begin, at - begin);
    }
  }
  std::string normal;
  normal_form(result, Form::kC, normal);
  return normal;
}

/// ftfy's work but for texts that were decoded by a wrong encoding: line by line, each until nothing changes.
/// References are left alone behind the first of markup.
std::string mended(std::string_view text) {
  std::string result;
  bool unescapes = true;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size() - 1) + 1;
    std::string line(text.substr(begin, end - begin));
    unescapes = unescapes && line.find('<') == line.npos;
    while (true) {
      std::string next = mended_once(unescapes ? without_entities(line, Entities::kMarked) : line);
      if (next == line) break;
      line = std::move(next);
    }
    result += line;
    begin = end;
  }
  return result;
}

/// As Python's `str.isspace`, which has four separators beside Unicode's blanks.
bool is_blank(char32_t c) { return is_whitespace(c) || (c >= 0x1C && c <= 0x1F); }

/// Words with one blank between.
std::string joined_words(std::string_view text) {
  std::string result;
  bool after_blank = false;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t begin = at;
    if (is_blank(next_character(text, at))) {
      after_blank = true;
      continue;
    }
    if (after_blank && !result.empty()) result += ' ';
    result += text.substr(begin, at - begin);
    after_blank = false;
  }
  return result;
}

std::string lower_case(std::string_view text) {
  std::string result;
  append_lowercase_text(result, text);
  return result;
}

/// Of ASCII alone, but for the underscore, which is a blank.
std::string without_punctuation(std::string_view text) {
  std::string result;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '_') result += ' ';
    else if (byte >= 0x80 || !is_punctuation(byte)) result += c;
  }
  return result;
}

}  // namespace

std::optional<OpenClipText> OpenClipText::of_folder(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / "open_clip_config.json";
  std::error_code error;
  // A folder that has both is read as that of transformers.
  if (std::filesystem::exists(folder / "config.json", error) || !std::filesystem::exists(path, error)) {
    return std::nullopt;
  }
  const JsonFile file(path);
  const auto model = file.root().find("model_cfg");
  const auto text = model ? model->find("text_cfg") : std::nullopt;
  if (!text) return std::nullopt;
  const auto name = text->find("hf_tokenizer_name");
  // Without one it is OpenCLIP's own, of CLIP's vocabulary.
  Cleaning cleaning = name && !name->string().empty() ? Cleaning::kWhitespace : Cleaning::kLower;
  if (const auto mode = text->find("tokenizer_mode"); mode && !mode->string().empty()) {
    throw mode->refused("is not supported, expected none");
  }
  if (const auto options = text->find("tokenizer_kwargs")) {
    options->for_each([&](const std::string& key, const Field& value) {
      if (key == "clean") {
        const std::string& how = value.string();
        if (how == "whitespace") cleaning = Cleaning::kWhitespace;
        else if (how == "lower") cleaning = Cleaning::kLower;
        else if (how == "canonicalize") cleaning = Cleaning::kCanonicalize;
        else throw value.refused(fmt::format("'{}', expected whitespace, lower or canonicalize", how));
        return;
      }
      const bool is_off = value.is_null() || (value.is_string() && value.string().empty()) ||
                          (value.json().is(Json::Kind::kBool) && !value.boolean());
      if (!is_off) throw value.refused("a setting of the tokenizer that is not supported, expected 'clean' alone");
    });
  }
  constexpr std::int64_t kDefault = 77;
  const auto length = text->find("context_length");
  return OpenClipText(cleaning, length ? length->integer(std::int64_t{1} << 30) : kDefault);
}

std::string OpenClipText::cleaned(std::string_view text) const {
  std::string result = mended(text);
  for (int i = 0; i < 2; ++i) result = without_entities(result, Entities::kAll);
  if (cleaning_ == Cleaning::kCanonicalize) return joined_words(lower_case(without_punctuation(result)));
  result = joined_words(result);
  return cleaning_ == Cleaning::kLower ? lower_case(result) : result;
}

}  // namespace tapecache::data::tokenizers
