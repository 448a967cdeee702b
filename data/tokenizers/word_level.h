#pragma once

#include "tapecache/data/tokenizers/model.h"

#pragma GCC visibility push(hidden)

namespace tapecache::data::tokenizers {

/// A token for each whole piece.
class WordLevel : public Model {
 public:
  explicit WordLevel(const Field& field);

  void encode(std::string_view piece, std::vector<std::int32_t>& ids) const override;

 private:
  std::int32_t unknown_;
};

}  // namespace tapecache::data::tokenizers

#pragma GCC visibility pop
