#pragma once

#include <filesystem>
#include <memory>

#include "tapecache/data/tokenizers/fields.h"

#pragma GCC visibility push(hidden)

/// Folders without a tokenizer.json: the one that `transformers` makes of their files. The model's folder, which has
/// its configuration, is mostly the same.
namespace tapecache::data::tokenizers {

/// Of `vocab.txt`: BERT's or MPNet's.
std::unique_ptr<JsonFile> from_word_pieces(const std::filesystem::path& folder, const std::filesystem::path& model);

/// Of a model of SentencePiece: XLM-RoBERTa's, T5's, SigLIP's, Llama's or Gemma's. Another kind is refused.
std::unique_ptr<JsonFile> from_sentencepiece(const std::filesystem::path& folder, const std::filesystem::path& model,
                                             const char* name);

/// Of `vocab.json` and `merges.txt`: CLIP's, RoBERTa's, Qwen's or GPT-2's.
std::unique_ptr<JsonFile> from_merges(const std::filesystem::path& folder, const std::filesystem::path& model);

}  // namespace tapecache::data::tokenizers

#pragma GCC visibility pop
