#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "tapecache/data/tokenizers/model.h"
#include "tapecache/data/tokenizers/trie.h"

#pragma GCC visibility push(hidden)

namespace tapecache::data::tokenizers {

/// The cut of a piece into tokens whose scores have the largest sum. Where "sentencepiece_kinds" says what kind each
/// token is of in SentencePiece, those of texts alone are found in texts, and sums are of f32, as it has them, of texts
/// that "sentencepiece_prefix" stands before.
class Unigram : public Model {
 public:
  explicit Unigram(const Field& field);

  void encode(std::string_view piece, std::vector<std::int32_t>& ids) const override;

 private:
  struct Best {
    double score = 0;
    std::size_t begin = 0;  // of the last token of the best cut that ends here
    std::int32_t id = kNone;
    bool reached = false;
  };
  /// The best cuts of a piece that end at each of its bytes.
  void find_best(std::string_view piece, std::vector<Best>& best) const;

  std::vector<double> scores_;
  Trie tokens_;
  double unknown_score_ = 0;
  std::int32_t unknown_ = kNone;
  bool rounds_ = false;              // sums to f32
  double first_score_ = 0;           // the sum that a piece begins with, on which rounding depends
  std::vector<std::int32_t> bytes_;  // ids of the tokens for bytes; empty where they are not to be used
};

}  // namespace tapecache::data::tokenizers

#pragma GCC visibility pop
