#include "tapecache/data/tokenizers/model.h"

#include <fmt/format.h>

#include "tapecache/data/tokenizers/bpe.h"
#include "tapecache/data/tokenizers/unigram.h"
#include "tapecache/data/tokenizers/word_level.h"
#include "tapecache/data/tokenizers/word_piece.h"

namespace tapecache::data::tokenizers {

namespace {

/// Old files name no type.
std::string type_of(const Field& field) {
  if (const auto type = field.find("type")) return type->string();
  if (field.has("merges")) return "BPE";
  if (field.has("max_input_chars_per_word")) return "WordPiece";
  return field.at("vocab").is_array() ? "Unigram" : "WordLevel";
}

}  // namespace

void Model::no_token(std::string_view piece) {
  throw ValueError(fmt::format("tokenizer: '{}' has no token, and the tokenizer has none for the unknown", piece));
}

std::unique_ptr<Model> read_model(const Field& field) {
  const std::string type = type_of(field);
  if (type == "WordPiece") return std::make_unique<WordPiece>(field);
  if (type == "BPE") return std::make_unique<Bpe>(field);
  if (type == "Unigram") return std::make_unique<Unigram>(field);
  if (type == "WordLevel") return std::make_unique<WordLevel>(field);
  throw field.at("type").refused(fmt::format("'{}', expected WordPiece, BPE, Unigram or WordLevel", type));
}

Vocabulary read_vocabulary(const Field& field) {
  Vocabulary vocabulary;
  field.for_each([&](const std::string& token, const Field& id) { vocabulary.add(token, id.id()); });
  return vocabulary;
}

}  // namespace tapecache::data::tokenizers
