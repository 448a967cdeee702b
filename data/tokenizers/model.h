#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "tapecache/data/tokenizers/fields.h"
#include "tapecache/data/tokenizers/vocabulary.h"

#pragma GCC visibility push(hidden)

namespace tapecache::data::tokenizers {

/// Makes tokens of the pieces of a text. What it makes of one depends on nothing else.
class Model {
 public:
  virtual ~Model() = default;

  /// Appends the ids of a piece that is not empty.
  virtual void encode(std::string_view piece, std::vector<std::int32_t>& ids) const = 0;

  const Vocabulary& vocabulary() const { return vocabulary_; }

 protected:
  /// Throws ValueError for a piece without a token, where there is none for the unknown.
  [[noreturn]] static void no_token(std::string_view piece);

  Vocabulary vocabulary_;
};

/// The field "model" of a tokenizer.json.
std::unique_ptr<Model> read_model(const Field& field);

/// An object of tokens and their ids.
Vocabulary read_vocabulary(const Field& field);

}  // namespace tapecache::data::tokenizers

#pragma GCC visibility pop
