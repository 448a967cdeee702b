#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "tapecache/data/tokenizers/normalizers.h"
#include "tapecache/data/tokenizers/precompiled.h"

#pragma GCC visibility push(hidden)

namespace tapecache::data::tokenizers {

/// What SigLIP's tokenizer and the model of SentencePiece in it make of a text: without ASCII's punctuation, in lower
/// case, with one blank between words, shown before each of them; and the model's own map of characters.
class SiglipNormalizer : public Normalizer {
 public:
  explicit SiglipNormalizer(const Field& field);
  void apply(Normalized& normalized) const override;

 private:
  void put_words(std::string_view text, bool starts_text, std::string& result) const;
  void map(std::string_view text, std::string& result) const;

  bool lower_cases_;
  std::optional<Precompiled> map_;
};

}  // namespace tapecache::data::tokenizers

#pragma GCC visibility pop
