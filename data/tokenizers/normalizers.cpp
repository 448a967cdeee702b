#include "tapecache/data/tokenizers/normalizers.h"

#include <utility>
#include <vector>

#include <fmt/format.h>

#include "tapecache/data/tokenizers/bert_normalizer.h"
#include "tapecache/data/tokenizers/byte_alphabet.h"
#include "tapecache/data/tokenizers/pattern.h"
#include "tapecache/data/tokenizers/precompiled.h"
#include "tapecache/data/tokenizers/siglip_normalizer.h"
#include "tapecache/data/tokenizers/unicode.h"

namespace tapecache::data::tokenizers {

namespace {

class Sequence : public Normalizer {
 public:
  explicit Sequence(const Field& field) {
    field.check_keys({"type", "normalizers"});
    const Field parts = field.at("normalizers");
    for (std::size_t i = 0; i < parts.size(); ++i) parts_.push_back(read_normalizer(parts[i]));
  }
  void apply(Normalized& normalized) const override {
    for (const auto& part : parts_) part->apply(normalized);
  }

 private:
  std::vector<std::unique_ptr<Normalizer>> parts_;
};

class NormalForm : public Normalizer {
 public:
  explicit NormalForm(Form form) : form_(form) {}
  void apply(Normalized& normalized) const override {
    normal_form(normalized.text, form_, normalized.spare);
    normalized.text.swap(normalized.spare);
  }

 private:
  Form form_;
};

class Lowercase : public Normalizer {
 public:
  void apply(Normalized& normalized) const override {
    normalized.spare.clear();
    for (std::size_t at = 0; at < normalized.text.size();) {
      append_lowercase(normalized.spare, next_character(normalized.text, at));
    }
    normalized.text.swap(normalized.spare);
  }
};

constexpr char32_t kDropped = ~char32_t{0};

/// Keeps or changes single characters: `Change` returns what becomes of one, or kDropped.
template <class Change>
class Characters : public Normalizer {
 public:
  void apply(Normalized& normalized) const override {
    normalized.spare.clear();
    for (std::size_t at = 0; at < normalized.text.size();) {
      const bool first = at == 0;
      const char32_t character = Change()(next_character(normalized.text, at));
      if (character != kDropped) append_character(normalized.spare, character);
      else if (first) normalized.late_start = true;
    }
    normalized.text.swap(normalized.spare);
  }
};

struct WithoutMarks {
  char32_t operator()(char32_t c) const { return is_mark(c) ? kDropped : c; }
};

/// What machine translation takes for blanks, or leaves out.
struct Nmt {
  char32_t operator()(char32_t c) const {
    if ((c >= 0x01 && c <= 0x08) || c == 0x0B || (c >= 0x0E && c <= 0x1F) || c == 0x7F || c == 0x8F || c == 0x9F) {
      return kDropped;
    }
    const bool blank = c == 0x09 || c == 0x0A || c == 0x0C || c == 0x0D || c == 0x1680 ||
                       (c >= 0x200B && c <= 0x200F) || c == 0x2028 || c == 0x2029 || c == 0x2581 || c == 0xFEFF ||
                       c == 0xFFFD;
    return blank ? U' ' : c;
  }
};

class Strip : public Normalizer {
 public:
  explicit Strip(const Field& field) {
    field.check_keys({"type", "strip_left", "strip_right"});
    left_ = field.at("strip_left").boolean();
    right_ = field.at("strip_right").boolean();
  }
  void apply(Normalized& normalized) const override {
    std::string& text = normalized.text;
    std::size_t begin = 0, end = text.size();
    for (std::size_t next = 0; left_ && begin < end && is_whitespace(next_character(text, next));) begin = next;
    for (std::size_t last = end; right_ && begin < end && is_whitespace(previous_character(text, last));) end = last;
    text.erase(end);
    text.erase(0, begin);
    normalized.late_start = normalized.late_start || begin > 0;
  }

 private:
  bool left_, right_;
};

class Replace : public Normalizer {
 public:
  explicit Replace(const Field& field) : pattern_(field.at("pattern")), content_(field.at("content").string()) {
    field.check_keys({"type", "pattern", "content"});
  }
  void apply(Normalized& normalized) const override {
    const std::string_view text = normalized.text;
    normalized.spare.clear();
    pattern_.parts(text, [&](std::size_t begin, std::size_t end, bool matches) {
      normalized.spare += matches ? content_ : text.substr(begin, end - begin);
      if (normalized.spare.size() > kLongest) throw ValueError("tokenizer: its replacements make a text too long");
      // What stands for several characters stands where the last of them did.
      if (matches && begin == 0 && (content_.empty() ? end > 0 : end > character_size(text.front()))) {
        normalized.late_start = true;
      }
    });
    normalized.text.swap(normalized.spare);
  }

 private:
  static constexpr std::size_t kLongest = std::size_t{1} << 28;  // far beyond texts, but for files that mean harm

  Pattern pattern_;
  std::string content_;
};

class Prepend : public Normalizer {
 public:
  explicit Prepend(const Field& field) : text_(field.at("prepend").string()) { field.check_keys({"type", "prepend"}); }
  void apply(Normalized& normalized) const override {
    if (!normalized.text.empty()) normalized.text.insert(0, text_);
  }

 private:
  std::string text_;
};

class Charsmap : public Normalizer {
 public:
  explicit Charsmap(const Field& field) : map_(field.at("precompiled_charsmap")) {
    field.check_keys({"type", "precompiled_charsmap"});
  }
  void apply(Normalized& normalized) const override {
    map_.apply(normalized.text, normalized.spare);
    normalized.text.swap(normalized.spare);
  }

 private:
  Precompiled map_;
};

class ByteLevel : public Normalizer {
 public:
  void apply(Normalized& normalized) const override {
    normalized.spare.clear();
    append_in_byte_alphabet(normalized.text, normalized.spare);
    normalized.text.swap(normalized.spare);
  }
};

template <class Made, class... Arguments>
std::unique_ptr<Normalizer> without_fields(const Field& field, Arguments... arguments) {
  field.check_keys({"type"});
  return std::make_unique<Made>(arguments...);
}

}  // namespace

std::unique_ptr<Normalizer> read_normalizer(const Field& field) {
  const std::string& type = field.at("type").string();
  if (type == "Sequence") return std::make_unique<Sequence>(field);
  if (type == "BertNormalizer") return std::make_unique<BertNormalizer>(field);
  if (type == "NFC") return without_fields<NormalForm>(field, Form::kC);
  if (type == "NFD") return without_fields<NormalForm>(field, Form::kD);
  if (type == "NFKC") return without_fields<NormalForm>(field, Form::kKC);
  if (type == "NFKD") return without_fields<NormalForm>(field, Form::kKD);
  if (type == "Lowercase") return without_fields<Lowercase>(field);
  if (type == "StripAccents") return without_fields<Characters<WithoutMarks>>(field);
  if (type == "Nmt") return without_fields<Characters<Nmt>>(field);
  if (type == "Strip") return std::make_unique<Strip>(field);
  if (type == "Replace") return std::make_unique<Replace>(field);
  if (type == "Prepend") return std::make_unique<Prepend>(field);
  if (type == "Precompiled") return std::make_unique<Charsmap>(field);
  if (type == "ByteLevel") return without_fields<ByteLevel>(field);
  if (type == "SiglipText") return std::make_unique<SiglipNormalizer>(field);
  throw field.at("type").refused(fmt::format("normalizer '{}' is not supported", type));
}

}  // namespace tapecache::data::tokenizers
