#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tapecache/data/tokenizers/added_tokens.h"
#include "tapecache/data/tokenizers/limits.h"
#include "tapecache/data/tokenizers/model.h"
#include "tapecache/data/tokenizers/normalizers.h"
#include "tapecache/data/tokenizers/pieces.h"
#include "tapecache/data/tokenizers/pre_tokenizers.h"
#include "tapecache/data/tokenizers/template.h"
#include "tapecache/data/tokenizers/word_cache.h"

#pragma GCC visibility push(hidden)

namespace tapecache::data::tokenizers {

/// What one thread works with.
struct Workspace {
  std::string repaired;
  Normalized normalized;
  Pieces pieces;
  WordCache words;
  std::vector<std::int32_t> first, second;
};

/// What a tokenizer.json describes.
class Pipeline {
 public:
  explicit Pipeline(const Field& root);

  /// Puts the ids of a text, without special tokens, into `ids`; it may stop when those are enough.
  void encode(std::string_view text, std::size_t enough, Workspace& workspace, std::vector<std::int32_t>& ids) const;

  const Vocabulary& vocabulary() const { return vocabulary_; }
  const Template& special_tokens() const { return template_; }

  std::optional<Truncation> truncation;
  std::optional<Padding> padding;

 private:
  std::unique_ptr<Normalizer> normalizer_;
  std::unique_ptr<PreTokenizer> pre_tokenizer_;
  std::unique_ptr<Model> model_;
  AddedTokens added_tokens_;
  Template template_;
  Vocabulary vocabulary_;
};

}  // namespace tapecache::data::tokenizers

#pragma GCC visibility pop
