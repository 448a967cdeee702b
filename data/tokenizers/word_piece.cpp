#include "tapecache/data/tokenizers/word_piece.h"

#include <string>
#include <utility>

#include "tapecache/data/tokenizers/unicode.h"

namespace tapecache::data::tokenizers {

WordPiece::WordPiece(const Field& field) {
  field.check_keys({"type", "vocab", "unk_token", "continuing_subword_prefix", "max_input_chars_per_word"});
  vocabulary_ = read_vocabulary(field.at("vocab"));
  unknown_ = vocabulary_.find(field.at("unk_token").string());
  max_characters_ = static_cast<std::size_t>(field.at("max_input_chars_per_word").integer(std::int64_t{1} << 62));
  const std::string& prefix = field.at("continuing_subword_prefix").string();
  std::vector<std::pair<std::string, std::int32_t>> beginnings, continuations;
  vocabulary_.for_each([&](std::string_view token, std::int32_t id) {
    if (!token.empty()) beginnings.emplace_back(token, id);
    if (token.size() > prefix.size() && token.starts_with(prefix)) {
      continuations.emplace_back(token.substr(prefix.size()), id);
    }
  });
  beginnings_ = Trie(std::move(beginnings));
  continuations_ = Trie(std::move(continuations));
}

void WordPiece::encode(std::string_view piece, std::vector<std::int32_t>& ids) const {
  const std::size_t before = ids.size();
  bool known = piece.size() <= max_characters_ || count_characters(piece) <= max_characters_;
  for (std::size_t at = 0; known && at < piece.size();) {
    const auto [bytes, id] = (at == 0 ? beginnings_ : continuations_).longest(piece.substr(at));
    known = bytes > 0;
    at += bytes;
    ids.push_back(id);
  }
  if (known) return;
  if (unknown_ == kNone) no_token(piece);
  ids.resize(before);
  ids.push_back(unknown_);
}

}  // namespace tapecache::data::tokenizers
