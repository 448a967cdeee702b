#include "tapecache/data/tokenizers/pipeline.h"

#include <fmt/format.h>

#include "tapecache/data/tokenizers/unicode.h"

namespace tapecache::data::tokenizers {

Pipeline::Pipeline(const Field& root) {
  root.check_keys({"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor",
                   "decoder", "model"});
  if (const auto version = root.find("version"); version && version->string() != "1.0") {
    throw version->refused(fmt::format("'{}', expected 1.0", version->string()));
  }
  model_ = read_model(root.at("model"));
  vocabulary_ = model_->vocabulary();
  if (const auto field = root.find("normalizer")) normalizer_ = read_normalizer(*field);
  if (const auto field = root.find("pre_tokenizer")) pre_tokenizer_ = read_pre_tokenizer(*field);
  if (const auto field = root.find("post_processor")) template_ = read_template(*field);
  if (const auto field = root.find("truncation")) truncation = read_truncation(*field);
  if (const auto field = root.find("padding")) padding = read_padding(*field);
  if (const auto field = root.find("added_tokens")) {
    added_tokens_ = AddedTokens(*field, normalizer_.get(), vocabulary_);
  }
}

void Pipeline::encode(std::string_view text, std::size_t enough, Workspace& workspace,
                      std::vector<std::int32_t>& ids) const {
  if (!is_well_formed(text)) {
    workspace.repaired = well_formed(text);
    text = workspace.repaired;
  }
  Pieces& pieces = workspace.pieces;
  pieces.clear();
  const auto add_token = [&](std::int32_t id) { pieces.add_token(id); };
  const char* const text_begin = text.data();
  added_tokens_.split_original(
      text,
      [&](std::string_view part) {
        bool starts_text = part.data() == text_begin;
        if (normalizer_) {
          workspace.normalized.take(part, starts_text);
          normalizer_->apply(workspace.normalized);
          part = workspace.normalized.text;
          starts_text = starts_text && !workspace.normalized.late_start;
        }
        const char* const part_begin = part.data();
        added_tokens_.split_normalized(
            part, [&](std::string_view piece) { pieces.add_text(piece, starts_text && piece.data() == part_begin); },
            add_token);
      },
      add_token);
  if (pre_tokenizer_) pre_tokenizer_->apply(pieces);

  ids.clear();
  for (const Pieces::Piece& piece : pieces.all()) {
    if (ids.size() >= enough) return;
    if (piece.id != kNone) ids.push_back(piece.id);
    else workspace.words.encode(*model_, pieces.text(piece), ids);
  }
}

}  // namespace tapecache::data::tokenizers
