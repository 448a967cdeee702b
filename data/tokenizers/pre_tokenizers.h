#pragma once

#include <memory>

#include "tapecache/data/tokenizers/fields.h"
#include "tapecache/data/tokenizers/pieces.h"

#pragma GCC visibility push(hidden)

namespace tapecache::data::tokenizers {

/// Cuts a normalised text into the pieces that a model makes tokens of.
class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  virtual void apply(Pieces& pieces) const = 0;
};

/// The field "pre_tokenizer" of a tokenizer.json.
std::unique_ptr<PreTokenizer> read_pre_tokenizer(const Field& field);

}  // namespace tapecache::data::tokenizers

#pragma GCC visibility pop
