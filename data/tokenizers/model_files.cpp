#include "tapecache/data/tokenizers/model_files.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "tapecache/core/json.h"
#include "tapecache/data/tokenizers/draft.h"
#include "tapecache/data/tokenizers/folders.h"

namespace tapecache::data::tokenizers {

namespace {

namespace fs = std::filesystem;

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

bool lower_cases(const Json& normalizer) {
  const Json* const type = normalizer.find("type");
  if (!type) return false;
  if (type->text == "Lowercase") return true;
  const Json* const parts = type->text == "Sequence" ? normalizer.find("normalizers") : nullptr;
  return parts && std::ranges::any_of(parts->items, lower_cases);
}

/// The tokenizer.json of a folder, and what its class does beside it.
std::unique_ptr<JsonFile> from_json(const fs::path& folder) {
  const fs::path path = folder / "tokenizer.json";
  const JsonFile config = optional_file(folder / "tokenizer_config.json");
  if (!is_siglip(folder, config.root()) || !config.root().boolean_or("do_lower_case", true)) {
    return std::make_unique<JsonFile>(path);
  }
  Json root = tapecache::detail::parse_json(path.string(), file_bytes(path));
  const Json* const normalizer = root.find("normalizer");
  if (normalizer && lower_cases(*normalizer)) return std::make_unique<JsonFile>(path, std::move(root));
  const Json* const model = root.find("model");
  const Json* const type = model ? model->find("type") : nullptr;
  if (type && type->text == "Unigram") {
    throw FileError(
        fmt::format("{}: 'normalizer' does not lower-case, but SigLIP's texts are lower-cased and without punctuation",
                    path.string()));
  }
  Json both = Json::array({Json::object({{"type", Json::of("Lowercase")}})});
  if (normalizer && !normalizer->is(Json::Kind::kNull)) both.items.push_back(*normalizer);
  root.set("normalizer", Json::object({{"type", Json::of("Sequence")}, {"normalizers", std::move(both)}}));
  return std::make_unique<JsonFile>(path, std::move(root));
}

}  // namespace

std::unique_ptr<JsonFile> find_tokenizer(const fs::path& folder_or_file) {
  std::error_code error;
  if (!fs::is_directory(folder_or_file, error)) return std::make_unique<JsonFile>(folder_or_file);
  const fs::path& folder = folder_or_file;
  if (is_there(folder / "tokenizer.json")) return from_json(folder);
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
