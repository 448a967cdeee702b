#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "tapecache/data/tokenizers/draft.h"
#include "tapecache/data/tokenizers/sentencepiece_file.h"

#pragma GCC visibility push(hidden)

/// What becomes of a model of SentencePiece, by the kind of the tokenizer.
namespace tapecache::data::tokenizers {

/// Of Unigram.
void make_xlm_roberta(Draft& draft, const Field& config, const SentencePieceFile& file);
void make_t5(Draft& draft, const Field& config, const SentencePieceFile& file);
/// Throws FileError for a model that asks for more than the published ones.
void make_siglip(Draft& draft, const Field& config, const SentencePieceFile& file, const std::filesystem::path& path);

/// Of byte-pair encoding.
void make_llama(Draft& draft, const Field& config, const SentencePieceFile& file, const std::filesystem::path& path);
/// Texts are lower-cased where it is a SigLIP's.
void make_gemma(Draft& draft, const Field& config, const SentencePieceFile& file, const std::filesystem::path& path,
                bool is_siglip);

Json metaspace(const char* scheme, bool splits);

/// Texts between special tokens: the parts are those, "$A" and "$B", each with the segment behind it.
using TemplateParts = std::vector<std::pair<std::string, std::int64_t>>;
Json template_of(const Draft& draft, const TemplateParts& single, const TemplateParts& pair);

/// SigLIP's texts: cut to so many tokens and, where that is asked for, padded to as many.
void set_fixed_length(Draft& draft, const Field& config, const std::string& padding);

}  // namespace tapecache::data::tokenizers

#pragma GCC visibility pop
