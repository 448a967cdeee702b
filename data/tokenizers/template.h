#pragma once

#include <cstdint>
#include <vector>

#include "tapecache/data/tokenizers/fields.h"

#pragma GCC visibility push(hidden)

namespace tapecache::data::tokenizers {

/// What is put together of one text, or of two.
struct Template {
  enum class Kind { kFirst, kSecond, kSpecial };
  struct Part {
    Kind kind;
    std::int32_t type;
    std::vector<std::int32_t> ids = {};  // of special tokens
  };

  std::vector<Part> single{{Kind::kFirst, 0}};
  std::vector<Part> pair{{Kind::kFirst, 0}, {Kind::kSecond, 1}};
  bool end_once = false;  ///< a text that ends with the token that is to follow it does not get another
};

/// How many special tokens these parts have.
std::size_t special_tokens_of(const std::vector<Template::Part>& parts);

/// The field "post_processor" of a tokenizer.json.
Template read_template(const Field& field);

}  // namespace tapecache::data::tokenizers

#pragma GCC visibility pop
