#pragma once

#include <string_view>

#include "tapecache/data/tokenizers/normalizers.h"

#pragma GCC visibility push(hidden)

namespace tapecache::data::tokenizers {

/// BERT's: no control characters, blanks around Chinese characters, no accents, lower case; each where it is asked for.
class BertNormalizer : public Normalizer {
 public:
  explicit BertNormalizer(const Field& field);

  void apply(Normalized& normalized) const override;

 private:
  void clean(Normalized& normalized) const;
  bool strip_by_character(Normalized& normalized) const;
  void strip_by_normal_form(Normalized& normalized) const;
  void lower(Normalized& normalized) const;

  bool clean_, chinese_, accents_, lowercase_;
};

}  // namespace tapecache::data::tokenizers

#pragma GCC visibility pop
