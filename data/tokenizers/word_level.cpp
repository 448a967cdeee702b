#include "tapecache/data/tokenizers/word_level.h"

namespace tapecache::data::tokenizers {

WordLevel::WordLevel(const Field& field) {
  field.check_keys({"type", "vocab", "unk_token"});
  vocabulary_ = read_vocabulary(field.at("vocab"));
  unknown_ = vocabulary_.find(field.at("unk_token").string());
}

void WordLevel::encode(std::string_view piece, std::vector<std::int32_t>& ids) const {
  std::int32_t id = vocabulary_.find(piece);
  if (id == kNone) id = unknown_;
  if (id == kNone) no_token(piece);
  ids.push_back(id);
}

}  // namespace tapecache::data::tokenizers
