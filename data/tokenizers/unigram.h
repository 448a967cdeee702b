#pragma once

#include <optional>
#include <string>

#include "tapecache/data/tokenizers/model.h"
#include "tapecache/data/tokenizers/trie.h"

#pragma GCC visibility push(hidden)

namespace tapecache::data::tokenizers {

/// The cut of a piece into tokens whose scores have the largest sum. Where "sentencepiece_kinds" says what kind each
/// token is of in SentencePiece, those of texts alone are found in texts, and sums are of f32, as it has them.
class Unigram : public Model {
 public:
  explicit Unigram(const Field& field);

  void encode(std::string_view piece, std::vector<std::int32_t>& ids) const override;

 private:
  std::vector<double> scores_;
  Trie tokens_;
  double unknown_score_ = 0;
  std::int32_t unknown_ = kNone;
  bool rounds_ = false;              ///< sums to f32
  std::vector<std::int32_t> bytes_;  // ids of the tokens for bytes; empty where they are not to be used
};

}  // namespace tapecache::data::tokenizers

#pragma GCC visibility pop
