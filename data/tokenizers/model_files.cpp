#include "tapecache/data/tokenizers/model_files.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "tapecache/core/json.h"
#include "tapecache/data/tokenizers/draft.h"
#include "tapecache/data/tokenizers/folders.h"
#include "tapecache/data/tokenizers/open_clip_text.h"

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

/// The class that transformers makes of a folder's tokenizer.json; empty where it takes the file as it is.
std::string class_over_file(const fs::path& model, const Field& config) {
  const JsonFile configuration = optional_file(model / "config.json");
  const auto field = configuration.root().find("model_type");
  const std::string type = field ? field->string() : "";
  // Whose published folders name a class that is not theirs.
  constexpr std::array kByFile{"modernbert", "modernbert-decoder", "qwen2", "siglip2"};
  if (std::ranges::find(kByFile, type) != kByFile.end()) return "";
  for (const Field& of : {config, configuration.root()}) {
    if (const auto name = class_of(of)) return *name;
  }
  constexpr std::array<std::pair<std::string_view, const char*>, 9> kByType{{{"bert", "Bert"},
                                                                             {"distilbert", "Bert"},
                                                                             {"electra", "Bert"},
                                                                             {"mobilebert", "Bert"},
                                                                             {"mpnet", "MPNet"},
                                                                             {"roberta", "Roberta"},
                                                                             {"bart", "Roberta"},
                                                                             {"longformer", "Roberta"},
                                                                             {"gpt2", "GPT2"}}};
  const auto* const found = std::ranges::find(kByType, type, &std::pair<std::string_view, const char*>::first);
  return found == kByType.end() ? "" : found->second;
}

/// What the classes of BERT, RoBERTa and GPT-2 have in the place of what their file says, by tokenizer_config.json or,
/// for what that leaves out, by themselves.
std::unique_ptr<JsonFile> by_class(std::unique_ptr<JsonFile> file, const fs::path& model, const Field& config) {
  constexpr std::array kBerts{"Bert", "DistilBert", "Electra", "MobileBert", "MPNet"};
  constexpr std::array kByteLevel{"Roberta", "Bart", "Longformer", "GPT2"};
  const auto cut = file->root().find("model");
  const auto type = cut ? cut->find("type") : std::nullopt;
  const std::string kind = class_over_file(model, config);
  if (type && type->string() == "WordPiece" && std::ranges::find(kBerts, kind) != kBerts.end()) {
    file->set("normalizer", bert_normalizer(config));
    file->set("pre_tokenizer", of_type("BertPreTokenizer"));
  } else if (type && type->string() == "BPE" && std::ranges::find(kByteLevel, kind) != kByteLevel.end()) {
    file->set("normalizer", Json());
    file->set("pre_tokenizer", byte_level(config.boolean_or("add_prefix_space", false), true));
  }
  return file;
}

/// The tokenizer.json of a folder, and what its class does beside it.
std::unique_ptr<JsonFile> from_json(const fs::path& folder, const fs::path& model_folder) {
  const fs::path path = folder / "tokenizer.json";
  const JsonFile config = optional_file(folder / "tokenizer_config.json");
  // OpenCLIP's own cleaning of texts is before all else.
  if (OpenClipText::of_folder(folder)) return by_class(std::make_unique<JsonFile>(path), model_folder, config.root());
  if (!is_siglip(model_folder, config.root()) || !config.root().boolean_or("do_lower_case", true)) {
    return by_class(std::make_unique<JsonFile>(path), model_folder, config.root());
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

std::unique_ptr<JsonFile> find_tokenizer(const fs::path& folder_or_file, const fs::path& model) {
  std::error_code error;
  if (!fs::is_directory(folder_or_file, error)) return std::make_unique<JsonFile>(folder_or_file);
  const fs::path& folder = folder_or_file;
  const fs::path& of_model = model.empty() || is_there(folder / "config.json") ? folder : model;
  if (is_there(folder / "tokenizer.json")) return from_json(folder, of_model);
  if (is_there(folder / "vocab.txt")) return from_word_pieces(folder, of_model);
  if (is_there(folder / "vocab.json") && is_there(folder / "merges.txt")) return from_merges(folder, of_model);
  for (const char* const name : {"sentencepiece.bpe.model", "spiece.model", "tokenizer.model"}) {
    if (is_there(folder / name)) return from_sentencepiece(folder, of_model, name);
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
    for (const auto& [key, left] :
         {std::pair("padding_side", &settings.pads_left), std::pair("truncation_side", &settings.cuts_left)}) {
      const auto side = root.find(key);
      if (!side) continue;
      if (side->string() != "left" && side->string() != "right") {
        throw side->refused(fmt::format("'{}', expected left or right", side->string()));
      }
      *left = side->string() == "left";
    }
    // A number beyond all texts says that there is no bound. Older files call it otherwise.
    constexpr double kNoBound = 1e9;
    const auto length = root.find(root.find("model_max_length") ? "model_max_length" : "max_len");
    if (length && length->number() < kNoBound) {
      settings.max_tokens = length->integer(std::int64_t{1} << 30);
    }
  }
  return settings;
}

}  // namespace tapecache::data::tokenizers
