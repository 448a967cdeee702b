#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#pragma GCC visibility push(hidden)

namespace tapecache::data::tokenizers {

/// What OpenCLIP does to a text before its tokenizer sees it, of which the folder's open_clip_config.json alone tells.
class OpenClipText {
 public:
  /// Of a folder that is OpenCLIP's and not transformers' too; none of others. Throws FileError that names what else
  /// the configuration asks of a tokenizer.
  static std::optional<OpenClipText> of_folder(const std::filesystem::path& folder);

  /// That texts are cut to.
  std::int64_t max_tokens() const { return max_tokens_; }
  /// A text, which is well-formed UTF-8, with what ftfy makes of characters by themselves, one blank between words and
  /// none around them; in lower case, and without ASCII's punctuation, where that is asked for.
  std::string cleaned(std::string_view text) const;

 private:
  enum class Cleaning { kWhitespace, kLower, kCanonicalize };

  OpenClipText(Cleaning cleaning, std::int64_t max_tokens) : cleaning_(cleaning), max_tokens_(max_tokens) {}

  Cleaning cleaning_;
  std::int64_t max_tokens_;
};

}  // namespace tapecache::data::tokenizers

#pragma GCC visibility pop
