#pragma once

#include <cstddef>

#include "tapecache/data/tokenizers/model.h"
#include "tapecache/data/tokenizers/trie.h"

#pragma GCC visibility push(hidden)

namespace tapecache::data::tokenizers {

/// The longest token that a word begins with, then the longest that goes on, and so forth; or the unknown token.
class WordPiece : public Model {
 public:
  explicit WordPiece(const Field& field);

  void encode(std::string_view piece, std::vector<std::int32_t>& ids) const override;

 private:
  Trie beginnings_, continuations_;
  std::int32_t unknown_;
  std::size_t max_characters_;
};

}  // namespace tapecache::data::tokenizers

#pragma GCC visibility pop
