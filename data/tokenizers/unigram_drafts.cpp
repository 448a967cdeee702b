#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "tapecache/core/error.h"
#include "tapecache/data/tokenizers/sentencepiece_drafts.h"

namespace tapecache::data::tokenizers {

namespace {

std::string in_base64(std::string_view bytes) {
  constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (std::size_t at = 0; at < bytes.size(); at += 3) {
    const std::size_t count = std::min<std::size_t>(3, bytes.size() - at);
    unsigned three = 0;
    for (std::size_t i = 0; i < 3; ++i) {
      three = three << 8 | (i < count ? static_cast<unsigned char>(bytes[at + i]) : 0u);
    }
    for (std::size_t i = 0; i < 4; ++i) text.push_back(i <= count ? kDigits[three >> (18 - 6 * i) & 0x3F] : '=');
  }
  return text;
}

/// The list of a Unigram's tokens and scores, as it is made.
class Scored {
 public:
  explicit Scored(Draft& draft) : draft_(draft) {}
  void add(const std::string& token, double score) {
    draft_.put(token, static_cast<std::int32_t>(list_.items.size()));
    list_.items.push_back(
        Json::array({text(token), {.kind = Json::Kind::kNumber, .text = fmt::format("{:.17g}", score)}}));
  }
  void add(const SentencePieceFile::Piece& piece) { add(piece.text, static_cast<double>(piece.score)); }
  Json take() && { return std::move(list_); }

 private:
  Draft& draft_;
  Json list_ = Json::array();
};

Json unigram(Json vocabulary, std::int64_t unknown) {
  return of_type("Unigram", {{"unk_id", Json::of(unknown)}, {"vocab", std::move(vocabulary)}});
}

/// What XLM-RoBERTa and T5 have before their model.
void set_words_of_unigram(Draft& draft, const SentencePieceFile& file) {
  if (!file.charsmap.empty()) {
    draft.set("normalizer", of_type("Precompiled", {{"precompiled_charsmap", text(in_base64(file.charsmap))}}));
  }
  draft.set("pre_tokenizer", sequence_of("pretokenizers", {of_type("WhitespaceSplit"), metaspace("always", true)}));
}

}  // namespace

/// fairseq's order of the special tokens, in the place of the file's first three, and a mask behind all.
void make_xlm_roberta(Draft& draft, const Field& config, const SentencePieceFile& file) {
  const std::string begin = token_or(config, "bos_token", "<s>"), pad = token_or(config, "pad_token", "<pad>"),
                    end = token_or(config, "eos_token", "</s>"), unknown = token_or(config, "unk_token", "<unk>"),
                    mask = token_or(config, "mask_token", "<mask>");
  Scored vocabulary(draft);
  for (const std::string& token : {begin, pad, end, unknown}) vocabulary.add(token, 0);
  for (std::size_t i = 3; i < file.pieces.size(); ++i) vocabulary.add(file.pieces[i]);
  vocabulary.add(mask, 0);
  draft.set_model(unigram(std::move(vocabulary).take(), 3));
  set_words_of_unigram(draft, file);
  draft.set("post_processor", template_of(draft, {{begin, 0}, {"$A", 0}, {end, 0}},
                                          {{begin, 0}, {"$A", 0}, {end, 0}, {end, 0}, {"$B", 0}, {end, 0}}));
  for (const std::string& token : {begin, end, unknown, pad, mask}) draft.add_special(token);
}

/// The file's tokens, and those that stand for what is masked, the last of them first.
void make_t5(Draft& draft, const Field& config, const SentencePieceFile& file) {
  constexpr std::int64_t kMostExtra = 1 << 16;
  const auto extra = config.find("extra_ids");
  const std::int64_t count = extra ? extra->integer(kMostExtra) : 100;
  Scored vocabulary(draft);
  for (const SentencePieceFile::Piece& piece : file.pieces) vocabulary.add(piece);
  for (std::int64_t i = count; i-- > 0;) vocabulary.add(fmt::format("<extra_id_{}>", i), 0);
  draft.set_model(unigram(std::move(vocabulary).take(), 2));
  set_words_of_unigram(draft, file);
  const std::string end = token_or(config, "eos_token", "</s>");
  draft.set("post_processor", template_of(draft, {{"$A", 0}, {end, 0}}, {{"$A", 0}, {end, 0}, {"$B", 0}, {end, 0}}));
  for (const std::string& token :
       {end, token_or(config, "unk_token", "<unk>"), token_or(config, "pad_token", "<pad>")}) {
    draft.add_special(token);
  }
  for (std::int64_t i = 0; i < count; ++i) draft.add_special(fmt::format("<extra_id_{}>", i));
}

/// The file's tokens, which SentencePiece's own rules choose: `transformers` has no other tokenizer for it.
void make_siglip(Draft& draft, const Field& config, const SentencePieceFile& file, const std::filesystem::path& path) {
  const bool has_others = file.byte_fallback || std::ranges::find(file.pieces, SentencePieceFile::Kind::kUserDefined,
                                                                  &SentencePieceFile::Piece::kind) != file.pieces.end();
  if (has_others || !file.plain_blanks) {
    throw FileError(
        fmt::format("{}: has pieces for bytes, pieces that its user asked for, or blanks that are not "
                    "joined, expected a model without, as SigLIP's",
                    path.string()));
  }
  Scored vocabulary(draft);
  Json kinds = Json::array();
  for (const SentencePieceFile::Piece& piece : file.pieces) {
    vocabulary.add(piece);
    kinds.items.push_back(Json::of(static_cast<std::int64_t>(piece.kind)));
  }
  draft.set_model(unigram(std::move(vocabulary).take(), file.unknown));
  draft.set_of_model("sentencepiece_kinds", std::move(kinds));
  // Its class puts the unknown token before each text, and takes it off again.
  const std::string unknown = token_or(config, "unk_token", "<unk>");
  draft.set_of_model("sentencepiece_prefix", text((file.dummy_prefix ? "\u2581" : "") + unknown));
  draft.set("normalizer", of_type("SiglipText", {{"lowercase", Json::of(config.boolean_or("do_lower_case", true))},
                                                 {"precompiled_charsmap", text(in_base64(file.charsmap))}}));
  const std::string end = token_or(config, "eos_token", "</s>"), pad = token_or(config, "pad_token", "</s>");
  Json parts = template_of(draft, {{"$A", 0}, {end, 0}}, {{"$A", 0}, {end, 0}, {"$B", 0}, {end, 0}});
  parts.set("end_once", Json::of(true));
  draft.set("post_processor", std::move(parts));
  for (const std::string& token : {end, unknown, pad}) draft.add_special(token);
  set_fixed_length(draft, config, pad);
}

}  // namespace tapecache::data::tokenizers
