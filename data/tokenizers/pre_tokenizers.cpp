#include "tapecache/data/tokenizers/pre_tokenizers.h"

#include <string>
#include <utility>

#include <fmt/format.h>

#include "tapecache/data/tokenizers/byte_alphabet.h"
#include "tapecache/data/tokenizers/delimiters.h"
#include "tapecache/data/tokenizers/pattern.h"
#include "tapecache/data/tokenizers/unicode.h"

namespace tapecache::data::tokenizers {

namespace {

class Sequence : public PreTokenizer {
 public:
  explicit Sequence(const Field& field) {
    field.check_keys({"type", "pretokenizers"});
    const Field parts = field.at("pretokenizers");
    for (std::size_t i = 0; i < parts.size(); ++i) parts_.push_back(read_pre_tokenizer(parts[i]));
  }
  void apply(Pieces& pieces) const override {
    for (const auto& part : parts_) part->apply(pieces);
  }

 private:
  std::vector<std::unique_ptr<PreTokenizer>> parts_;
};

/// Cuts at whitespace, and around each punctuation character.
class Bert : public PreTokenizer {
 public:
  explicit Bert(const Field& field) { field.check_keys({"type"}); }
  void apply(Pieces& pieces) const override {
    pieces.cut([](std::string_view text, auto emit) {
      std::size_t word = 0;
      for (std::size_t at = 0; at < text.size();) {
        const std::size_t begin = at;
        const char32_t character = next_character(text, at);
        const bool blank = is_whitespace(character);
        if (!blank && !is_punctuation(character)) continue;
        emit(word, begin);
        if (!blank) emit(begin, at);
        word = at;
      }
      emit(word, text.size());
    });
  }
};

/// Takes the characters for which `Is` holds for delimiters.
template <bool (*Is)(char32_t)>
class Characters : public PreTokenizer {
 public:
  explicit Characters(Delimiters delimiters) : delimiters_(delimiters) {}
  void apply(Pieces& pieces) const override {
    pieces.cut([this](std::string_view text, auto emit) {
      Cutter cutter(delimiters_, emit);
      std::size_t done = 0;
      for (std::size_t at = 0; at < text.size();) {
        const std::size_t begin = at;
        if (!Is(next_character(text, at))) continue;
        if (done < begin) cutter.part(done, begin, false);
        cutter.part(begin, at, true);
        done = at;
      }
      if (done < text.size()) cutter.part(done, text.size(), false);
      cutter.finish();
    });
  }

 private:
  Delimiters delimiters_;
};

/// Cuts at whitespace, and between words and what is no word.
class Whitespace : public PreTokenizer {
 public:
  explicit Whitespace(const Field& field) { field.check_keys({"type"}); }
  void apply(Pieces& pieces) const override {
    pieces.cut([](std::string_view text, auto emit) {
      enum { kBlank, kWord, kOther } last = kBlank;
      std::size_t begin = 0;
      for (std::size_t at = 0; at < text.size();) {
        const std::size_t here = at;
        const char32_t character = next_character(text, at);
        const auto kind = is_word(character) ? kWord : is_whitespace(character) ? kBlank : kOther;
        if (kind == last) continue;
        if (last != kBlank) emit(begin, here);
        begin = here;
        last = kind;
      }
      if (last != kBlank) emit(begin, text.size());
    });
  }
};

class Delimiter : public PreTokenizer {
 public:
  explicit Delimiter(const Field& field) : delimiter_(field.at("delimiter").character()) {
    field.check_keys({"type", "delimiter"});
  }
  void apply(Pieces& pieces) const override {
    pieces.cut([this](std::string_view text, auto emit) {
      std::size_t begin = 0;
      for (std::size_t end; (end = text.find(delimiter_, begin)) != text.npos; begin = end + delimiter_.size()) {
        emit(begin, end);
      }
      emit(begin, text.size());
    });
  }

 private:
  std::string delimiter_;
};

class Split : public PreTokenizer {
 public:
  explicit Split(const Field& field)
      : pattern_(field.at("pattern")),
        delimiters_(read_delimiters(field.at("behavior"))),
        inverted_(field.at("invert").boolean()) {
    field.check_keys({"type", "pattern", "behavior", "invert"});
  }
  void apply(Pieces& pieces) const override {
    pieces.cut([this](std::string_view text, auto emit) {
      Cutter cutter(delimiters_, emit);
      pattern_.parts(text, [&](std::size_t begin, std::size_t end, bool matches) {
        cutter.part(begin, end, matches != inverted_);
      });
      cutter.finish();
    });
  }

 private:
  Pattern pattern_;
  Delimiters delimiters_;
  bool inverted_;
};

/// Runs of so many characters.
class FixedLength : public PreTokenizer {
 public:
  explicit FixedLength(const Field& field) {
    field.check_keys({"type", "length"});
    if (const auto length = field.find("length")) length_ = length->integer(std::int64_t{1} << 62);
    if (length_ == 0) throw field.at("length").refused("0, expected at least 1");
  }
  void apply(Pieces& pieces) const override {
    pieces.cut([this](std::string_view text, auto emit) {
      std::size_t begin = 0;
      std::int64_t count = 0;
      for (std::size_t at = 0; at < text.size(); at += character_size(text[at])) {
        if (count++ < length_) continue;
        emit(begin, at);
        begin = at;
        count = 1;
      }
      emit(begin, text.size());
    });
  }

 private:
  std::int64_t length_ = 5;
};

/// Writes bytes as visible characters, cut into words as GPT-2 does it.
class ByteLevel : public PreTokenizer {
 public:
  explicit ByteLevel(const Field& field) : prefix_(field.at("add_prefix_space").boolean()) {
    field.check_keys({"type", "add_prefix_space", "trim_offsets", "use_regex"});
    if (!field.boolean_or("use_regex", true)) return;
    words_ = std::make_unique<Pattern>(field,
                                       R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)");
  }
  void apply(Pieces& pieces) const override {
    std::string prefixed;
    pieces.rewrite([&](std::string_view text, bool, std::string& result, auto emit) {
      if (prefix_ && text.front() != ' ') {
        prefixed.assign(1, ' ').append(text);
        text = prefixed;
      }
      const auto write = [&](std::size_t begin, std::size_t end, bool) {
        append_in_byte_alphabet(text.substr(begin, end - begin), result);
        emit(result.size());
      };
      if (words_) words_->parts(text, write);
      else write(0, text.size(), true);
    });
  }

 private:
  bool prefix_;
  std::unique_ptr<Pattern> words_;
};

/// Makes blanks visible, one before the text if that is asked for, and cuts before each.
class Metaspace : public PreTokenizer {
 public:
  explicit Metaspace(const Field& field) : blank_(field.at("replacement").character()) {
    field.check_keys({"type", "replacement", "add_prefix_space", "prepend_scheme", "split", "str_rep"});
    if (const auto scheme = field.find("prepend_scheme")) {
      const std::string& name = scheme->string();
      scheme_ = name == "always" ? kAlways : name == "first" ? kFirst : kNever;
      if (scheme_ == kNever && name != "never") {
        throw scheme->refused(fmt::format("'{}', expected always, first or never", name));
      }
    }
    if (!field.boolean_or("add_prefix_space", true)) {
      if (field.find("prepend_scheme") && scheme_ != kNever) {
        throw field.at("add_prefix_space").refused("false, but 'prepend_scheme' is not 'never'");
      }
      scheme_ = kNever;
    }
    split_ = field.boolean_or("split", true);
  }
  void apply(Pieces& pieces) const override {
    pieces.rewrite([this](std::string_view text, bool starts_text, std::string& result, auto emit) {
      const bool visible = text.front() == ' ' || text.starts_with(blank_);
      if (!visible && (scheme_ == kAlways || (scheme_ == kFirst && starts_text))) result += blank_;
      for (std::size_t at = 0; at < text.size();) {
        const std::size_t size = character_size(text[at]);
        const bool blank = text[at] == ' ' || text.substr(at, size) == blank_;
        if (blank && split_) emit(result.size());
        result += blank ? std::string_view(blank_) : text.substr(at, size);
        at += size;
      }
      emit(result.size());
    });
  }

 private:
  enum Scheme { kAlways, kFirst, kNever };

  std::string blank_;
  Scheme scheme_ = kAlways;
  bool split_;
};

}  // namespace

std::unique_ptr<PreTokenizer> read_pre_tokenizer(const Field& field) {
  const std::string& type = field.at("type").string();
  if (type == "Sequence") return std::make_unique<Sequence>(field);
  if (type == "BertPreTokenizer") return std::make_unique<Bert>(field);
  if (type == "ByteLevel") return std::make_unique<ByteLevel>(field);
  if (type == "Metaspace") return std::make_unique<Metaspace>(field);
  if (type == "Split") return std::make_unique<Split>(field);
  if (type == "Whitespace") return std::make_unique<Whitespace>(field);
  if (type == "CharDelimiterSplit" || type == "Delimiter") return std::make_unique<Delimiter>(field);
  if (type == "FixedLength") return std::make_unique<FixedLength>(field);
  if (type == "WhitespaceSplit") {
    field.check_keys({"type"});
    return std::make_unique<Characters<is_whitespace>>(Delimiters::kRemoved);
  }
  if (type == "Digits") {
    field.check_keys({"type", "individual_digits"});
    const bool single = field.at("individual_digits").boolean();
    return std::make_unique<Characters<is_numeric>>(single ? Delimiters::kIsolated : Delimiters::kContiguous);
  }
  if (type == "Punctuation") {
    field.check_keys({"type", "behavior"});
    const auto behavior = field.find("behavior");
    return std::make_unique<Characters<is_punctuation>>(behavior ? read_delimiters(*behavior) : Delimiters::kIsolated);
  }
  throw field.at("type").refused(fmt::format("pre-tokenizer '{}' is not supported", type));
}

}  // namespace tapecache::data::tokenizers
