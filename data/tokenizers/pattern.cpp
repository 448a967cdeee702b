#include "tapecache/data/tokenizers/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <new>

#include <fmt/format.h>
#include <pcre2.h>

#include "tapecache/data/tokenizers/unicode.h"

namespace tapecache::data::tokenizers {

namespace {

// What these escapes stand for in the syntax of the files, where PCRE2 means less or something else.
constexpr std::string_view kSpaces = R"(\p{Z}\t-\r\x{85})";
constexpr std::string_view kWords =
    R"(\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{24b6}-\x{24e9}\x{1f130}-\x{1f149}\x{1f150}-\x{1f169}\x{1f170}-\x{1f189})";

/// Writes a regular expression of the files' syntax, which is Oniguruma's for Ruby, as one of PCRE2's.
class Translation {
 public:
  Translation(const Field& where, std::string_view from) : where_(where), from_(from) {}

  std::string run() {
    while (at_ < from_.size()) {
      const char c = from_[at_++];
      if (c == '\\') {
        escape();
      } else if (in_class_) {
        if (c == '[') unsupported("a class in a class");
        if (c == '&' && next_is('&')) unsupported("the intersection of classes");
        if (c == ']' && at_ - 1 > first_of_class_) in_class_ = false;
        result_ += c;
      } else if (c == '[') {
        in_class_ = true;
        result_ += c;
        if (next_is('^')) result_ += from_[at_++];
        first_of_class_ = at_;
        if (next_is('[')) unsupported("a class in a class");
      } else {
        if (c == '}' && next_is('+')) unsupported("'+' behind a counted repetition");
        if (c == '(' && next_is('*')) unsupported("a verb");
        result_ += c;
      }
    }
    return std::move(result_);
  }

 private:
  bool next_is(char c) const { return at_ < from_.size() && from_[at_] == c; }

  [[noreturn]] void unsupported(std::string_view what) const {
    throw where_.refused(fmt::format("{} in the regular expression '{}' is not supported", what, from_));
  }

  void escape() {
    if (at_ == from_.size()) unsupported("'\\' at the end");
    const char c = from_[at_++];
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'), digit = c >= '0' && c <= '9';
    if (c == 's' || c == 'w') {
      class_of(c == 's' ? kSpaces : kWords, false);
    } else if (c == 'S' || c == 'W') {
      class_of(c == 'S' ? kSpaces : kWords, true);
    } else if (c == 'h') {
      class_of("0-9a-fA-F", false);
    } else if (c == 'v') {
      result_ += "\\x{b}";
    } else if (digit || (letter && std::string_view("pPdDrntfexAz").find(c) == std::string_view::npos)) {
      unsupported(fmt::format("'\\{}'", c));
    } else {
      result_ += '\\';
      result_ += c;
      if (std::string_view("pPx").find(c) == std::string_view::npos || !next_is('{')) return;
      const std::size_t end = from_.find('}', at_);  // of the name or number that belongs to it
      if (end == from_.npos) unsupported("'{' without '}'");
      result_ += from_.substr(at_, end + 1 - at_);
      at_ = end + 1;
    }
  }

  void class_of(std::string_view members, bool negated) {
    if (in_class_ && negated) {
      // PCRE2 has no such class in a class, but for those that it knows itself.
      if (members != kSpaces) unsupported("'\\W' in a class");
      result_ += "\\S";
    } else if (in_class_) {
      result_ += members;
    } else {
      result_.append(negated ? "[^" : "[").append(members).append("]");
    }
  }

  const Field& where_;
  std::string_view from_;
  std::string result_;
  std::size_t at_ = 0, first_of_class_ = 0;
  bool in_class_ = false;
};

struct ReleaseMatch {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};

pcre2_match_data* match_data() {
  thread_local const std::unique_ptr<pcre2_match_data, ReleaseMatch> data(pcre2_match_data_create(1, nullptr));
  if (!data) throw std::bad_alloc();
  return data.get();
}

struct ReleaseContext {
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};

/// With a bound to what an expression that backtracks without end may take.
pcre2_match_context* match_context() {
  thread_local const std::unique_ptr<pcre2_match_context, ReleaseContext> context(pcre2_match_context_create(nullptr));
  if (!context) throw std::bad_alloc();
  constexpr std::uint32_t kMaxSteps = 1000000;
  pcre2_set_match_limit(context.get(), kMaxSteps);
  return context.get();
}

std::string message_of(int code) {
  PCRE2_UCHAR text[256];
  const int size = pcre2_get_error_message(code, text, sizeof(text));
  return size < 0 ? fmt::format("error {}", code) : reinterpret_cast<const char*>(text);
}

}  // namespace

void Pattern::Release::operator()(pcre2_real_code_8* code) const { pcre2_code_free(code); }

Pattern::Pattern(const Field& field) {
  field.check_keys({"String", "Regex"});
  if (const auto expression = field.find("Regex")) {
    compile(*expression, expression->string());
    return;
  }
  string_ = field.at("String").string();
  if (string_.empty()) throw field.refused("an empty string");
}

Pattern::Pattern(const Field& where, std::string_view expression) { compile(where, expression); }

Pattern::~Pattern() = default;

void Pattern::compile(const Field& where, std::string_view expression) {
  const std::string translated = Translation(where, expression).run();
  int error = 0;
  PCRE2_SIZE place = 0;
  code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                            PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &place,
                            nullptr));
  if (!code_) {
    throw where.refused(fmt::format("'{}' is not a regular expression: {}", expression, message_of(error)));
  }
  pcre2_jit_compile(code_.get(), PCRE2_JIT_COMPLETE);  // where it cannot, matching is slower
}

std::optional<Pattern::Match> Pattern::find(std::string_view text, std::size_t from) const {
  if (!code_) {
    const std::size_t begin = text.find(string_, from);
    return begin == text.npos ? std::nullopt : std::optional(Match{begin, begin + string_.size()});
  }
  const auto search = [&](std::uint32_t options) {
    return pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                       PCRE2_NO_UTF_CHECK | options, match_data(), match_context());
  };
  int found = search(0);
  if (found == PCRE2_ERROR_JIT_STACKLIMIT) found = search(PCRE2_NO_JIT);
  if (found == PCRE2_ERROR_NOMATCH) return std::nullopt;
  if (found < 0) {
    throw ValueError(fmt::format("tokenizer: a text of {} bytes is beyond its regular expression: {}", text.size(),
                                 message_of(found)));
  }
  const PCRE2_SIZE* const places = pcre2_get_ovector_pointer(match_data());
  return Match{places[0], places[1]};
}

}  // namespace tapecache::data::tokenizers
