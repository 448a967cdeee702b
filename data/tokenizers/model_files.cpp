#include "tapecache/data/tokenizers/model_files.h"

#include <fmt/format.h>

#include "tapecache/data/tokenizers/vocabulary_files.h"

namespace tapecache::data::tokenizers {

namespace {

namespace fs = std::filesystem;

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

/// "[PAD]", or {"content": "[PAD]", …}.
std::optional<std::string> token_of(const Field& root, std::string_view key) {
  const auto field = root.find(key);
  if (!field) return std::nullopt;
  return field->is_object() ? field->at("content").string() : field->string();
}

}  // namespace

std::unique_ptr<JsonFile> find_tokenizer(const fs::path& folder_or_file) {
  std::error_code error;
  if (!fs::is_directory(folder_or_file, error)) return std::make_unique<JsonFile>(folder_or_file);
  const fs::path& folder = folder_or_file;
  if (is_there(folder / "tokenizer.json")) return std::make_unique<JsonFile>(folder / "tokenizer.json");
  if (is_there(folder / "vocab.txt")) return from_word_pieces(folder);
  if (is_there(folder / "vocab.json") && is_there(folder / "merges.txt")) return from_merges(folder);
  for (const char* const name : {"sentencepiece.bpe.model", "spiece.model", "tokenizer.model"}) {
    if (is_there(folder / name)) return from_sentencepiece(folder, name);
  }
  throw FileError(fmt::format(
      "{}: holds no tokenizer: expected tokenizer.json, vocab.txt, vocab.json and merges.txt, or a model of "
      "SentencePiece",
      folder.string()));
}

Settings read_settings(const fs::path& folder) {
  Settings settings;
  for (const char* const name : {"special_tokens_map.json", "tokenizer_config.json"}) {
    if (!is_there(folder / name)) continue;
    const JsonFile file(folder / name);
    const Field root = file.root();
    if (const auto token = token_of(root, "pad_token")) settings.pad_token = token;
    if (const auto side = root.find("padding_side")) {
      if (side->string() != "left" && side->string() != "right") {
        throw side->refused(fmt::format("'{}', expected left or right", side->string()));
      }
      settings.pads_left = side->string() == "left";
    }
    // A number beyond all texts says that there is no bound.
    constexpr double kNoBound = 1e9;
    if (const auto length = root.find("model_max_length"); length && length->number() < kNoBound) {
      settings.max_tokens = length->integer(std::int64_t{1} << 30);
    }
  }
  return settings;
}

}  // namespace tapecache::data::tokenizers
