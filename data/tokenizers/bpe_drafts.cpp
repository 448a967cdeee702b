#include <string>
#include <vector>

#include <fmt/format.h>

#include "tapecache/core/error.h"
#include "tapecache/data/tokenizers/sentencepiece_drafts.h"
#include "tapecache/data/tokenizers/unicode.h"

namespace tapecache::data::tokenizers {

namespace {

/// A merge for each way in which two tokens make a third, in the order of the third.
void set_model(Draft& draft, const SentencePieceFile& file, const std::filesystem::path& path) {
  constexpr std::size_t kLongest = 1024;  // SentencePiece makes none above 16 characters unless it is told to
  for (std::size_t i = 0; i < file.pieces.size(); ++i) {
    if (file.pieces[i].text.size() > kLongest) {
      throw FileError(fmt::format("{}: piece {} has {} bytes, expected at most {}", path.string(), i,
                                  file.pieces[i].text.size(), kLongest));
    }
    draft.put(file.pieces[i].text, static_cast<std::int32_t>(i));
  }
  std::vector<Json> merges;
  for (const SentencePieceFile::Piece& piece : file.pieces) {
    for (std::size_t at = 0; at < piece.text.size();) {
      next_character(piece.text, at);
      if (at == piece.text.size()) break;
      const std::string left = piece.text.substr(0, at), right = piece.text.substr(at);
      if (draft.has(left) && draft.has(right)) merges.push_back(Json::array({text(left), text(right)}));
    }
  }
  draft.set_model(of_type(
      "BPE",
      {{"fuse_unk", Json::of(true)}, {"byte_fallback", Json::of(true)}, {"merges", Json::array(std::move(merges))}}));
}

/// Before and behind each text, where the configuration asks for them.
void set_ends(Draft& draft, const Field& config, const char* begin_token, const char* end_token) {
  const std::string begin = token_or(config, "bos_token", begin_token), end = token_or(config, "eos_token", end_token);
  const bool begins = config.boolean_or("add_bos_token", false), ends = config.boolean_or("add_eos_token", false);
  const auto around = [&](const char* part, std::int64_t segment) {
    TemplateParts parts;
    if (begins) parts.emplace_back(begin, segment);
    parts.emplace_back(part, segment);
    if (ends) parts.emplace_back(end, segment);
    return parts;
  };
  TemplateParts pair = around("$A", 0);
  for (auto& part : around("$B", 1)) pair.push_back(std::move(part));
  draft.set("post_processor", template_of(draft, around("$A", 0), pair));
  for (const std::string& token : {token_or(config, "unk_token", "<unk>"), begin, end}) draft.add_special(token);
}

}  // namespace

void make_llama(Draft& draft, const Field& config, const SentencePieceFile& file, const std::filesystem::path& path) {
  set_model(draft, file, path);
  draft.set("pre_tokenizer", metaspace(config.boolean_or("legacy", false) ? "always" : "first", false));
  set_ends(draft, config, "<s>", "</s>");
}

void make_gemma(Draft& draft, const Field& config, const SentencePieceFile& file, const std::filesystem::path& path,
                bool is_siglip) {
  set_model(draft, file, path);
  Json visible = of_type("Replace", {{"pattern", Json::object({{"String", text(" ")}})}, {"content", text("\u2581")}});
  const bool lowers = is_siglip && config.boolean_or("do_lower_case", true);
  draft.set("normalizer",
            lowers ? sequence_of("normalizers", {of_type("Lowercase"), std::move(visible)}) : std::move(visible));
  set_ends(draft, config, "<bos>", "<eos>");
  const std::string pad = token_or(config, "pad_token", "<pad>");
  for (const std::string& token : {pad, token_or(config, "mask_token", "<mask>")}) draft.add_special(token);
  if (is_siglip) set_fixed_length(draft, config, pad);
}

}  // namespace tapecache::data::tokenizers
