#include <map>
#include <string>

#include <fmt/format.h>

#include "tapecache/core/error.h"
#include "tapecache/data/tokenizers/folders.h"
#include "tapecache/data/tokenizers/sentencepiece_drafts.h"

namespace tapecache::data::tokenizers {

namespace {

Json template_part(const std::string& part, std::int64_t segment) {
  const bool is_text = part == "$A" || part == "$B";
  return Json::object(
      {{is_text ? "Sequence" : "SpecialToken",
        Json::object({{"id", text(is_text ? part.substr(1) : part)}, {"type_id", Json::of(segment)}})}});
}

/// The cut of a model's kind, as messages name it.
const char* name_of_cut(const SentencePieceFile& file) {
  return file.is_unigram ? "Unigram" : file.is_bpe ? "BPE" : "other";
}

}  // namespace

Json metaspace(const char* scheme, bool splits) {
  return of_type("Metaspace",
                 {{"replacement", text("\u2581")}, {"prepend_scheme", text(scheme)}, {"split", Json::of(splits)}});
}

Json template_of(const Draft& draft, const TemplateParts& single, const TemplateParts& pair) {
  Json tokens = Json::object();
  const auto parts = [&](const auto& listed) {
    Json all = Json::array();
    for (const auto& [part, segment] : listed) {
      all.items.push_back(template_part(part, segment));
      if (part.starts_with('$') || tokens.find(part)) continue;
      tokens.set(part, Json::object({{"id", text(part)},
                                     {"ids", Json::array({draft.named(part).items[1]})},
                                     {"tokens", Json::array({text(part)})}}));
    }
    return all;
  };
  Json of_single = parts(single), of_pair = parts(pair);
  return of_type(
      "TemplateProcessing",
      {{"single", std::move(of_single)}, {"pair", std::move(of_pair)}, {"special_tokens", std::move(tokens)}});
}

void set_fixed_length(Draft& draft, const Field& config, const std::string& padding) {
  constexpr double kNoBound = 1e9;
  const auto given = config.find("model_max_length");
  if (given && given->number() >= kNoBound) return;
  const std::int64_t tokens = given ? given->integer(std::int64_t{1} << 30) : 64;
  const auto side = config.find("padding_side");
  draft.set("truncation", Json::object({{"max_length", Json::of(tokens)}, {"strategy", text("LongestFirst")}}));
  draft.set("padding", Json::object({{"strategy", Json::object({{"Fixed", Json::of(tokens)}})},
                                     {"direction", text(side && side->string() == "left" ? "Left" : "Right")},
                                     {"pad_type_id", Json::of(std::int64_t{0})},
                                     {"pad_id", draft.named(padding).items[1]}}));
}

std::unique_ptr<JsonFile> from_sentencepiece(const std::filesystem::path& folder, const std::filesystem::path& model,
                                             const char* name) {
  const JsonFile config_file = optional_file(folder / "tokenizer_config.json");
  const Field config = config_file.root();
  std::string kind = kind_of(model, config,
                             {{"XLMRoberta", "xlm_roberta"},
                              {"XLM-RoBERTa", "xlm_roberta"},
                              {"T5", "t5"},
                              {"MT5", "t5"},
                              {"Llama", "llama"},
                              {"Gemma", "gemma"},
                              {"Siglip", "siglip"},
                              {"Siglip2", "gemma"}});
  const SentencePieceFile file(folder / name);
  if (kind == "siglip" && file.is_bpe) kind = "gemma";  // SigLIP 2's models are of the same type
  const bool is_bpe = kind == "llama" || kind == "gemma";
  if (kind.empty() || (is_bpe ? !file.is_bpe : !file.is_unigram)) {
    throw FileError(fmt::format(
        "{}: a model of SentencePiece, {}, of {}: expected one of XLM-RoBERTa, T5 or SigLIP "
        "(Unigram) or of Llama or Gemma (BPE), or a tokenizer.json beside it, which "
        "transformers makes of it",
        (folder / name).string(), name_of_cut(file), kind.empty() ? "a tokenizer that no configuration names" : kind));
  }
  Draft draft(folder, config);
  draft.add_listed();
  if (kind == "llama") make_llama(draft, config, file, folder / name);
  else if (kind == "gemma") make_gemma(draft, config, file, folder / name, is_siglip(model, config));
  else if (kind == "siglip") make_siglip(draft, config, file, folder / name);
  else if (kind == "t5") make_t5(draft, config, file);
  else make_xlm_roberta(draft, config, file);
  // Control tokens and such as the user asked for stand by themselves, but in SigLIP's own.
  for (const SentencePieceFile::Piece& piece : file.pieces) {
    if (kind == "siglip") break;
    if (piece.kind == SentencePieceFile::Kind::kControl || piece.kind == SentencePieceFile::Kind::kUserDefined) {
      draft.add_special(piece.text);
    }
  }
  draft.add_others();
  return std::move(draft).file(name);
}

}  // namespace tapecache::data::tokenizers
