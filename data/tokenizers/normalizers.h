#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "tapecache/data/tokenizers/fields.h"

#pragma GCC visibility push(hidden)

namespace tapecache::data::tokenizers {

/// A text as normalisers leave it. It stays well-formed UTF-8.
struct Normalized {
  std::string text;
  std::string spare;  // room to write the next one
  /// Whether what the text began with was taken away.
  bool late_start = false;
  /// Whether it is the first of what the user gave.
  bool starts_text = false;

  void take(std::string_view original, bool starts) {
    text = original;
    late_start = false;
    starts_text = starts;
  }
};

class Normalizer {
 public:
  virtual ~Normalizer() = default;
  virtual void apply(Normalized& normalized) const = 0;
};

/// The field "normalizer" of a tokenizer.json.
std::unique_ptr<Normalizer> read_normalizer(const Field& field);

}  // namespace tapecache::data::tokenizers

#pragma GCC visibility pop
