#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tapecache/core/error.h"

namespace tapecache::data {

struct EncodeOptions {
  /// Ids at most, special tokens included; none: as many as the tokenizer's own files say.
  std::optional<std::int64_t> max_tokens = {};
  bool special_tokens = true;
  /// Pad as the file says: each text to its fixed length, or a batch to its longest.
  bool pad = false;
};

struct TokenizerOptions {
  /// Texts are lower-cased before all else, unless the tokenizer does that itself: what `do_lower_case` of
  /// sentence_bert_config.json asks for.
  bool lower_case = false;
  /// The model's folder, by whose configuration the kind of a tokenizer is known where it stands in a folder without
  /// one, such as an adapter's; none: its own.
  std::filesystem::path model = {};
};

/// The tokenizer of a published model, by the model's own files: WordPiece, BPE, Unigram or whole words, with the
/// normalisers, pre-tokenizers, templates, added tokens, truncation and padding that they ask for. Its ids are those of
/// Hugging Face's `tokenizers`, as far as both know the same version of Unicode. Texts are UTF-8; each malformed
/// sequence in one counts as U+FFFD.
///
/// Calls on one tokenizer from several threads are safe.
class Tokenizer {
 public:
  /// A text, or a pair of texts, as a model takes it.
  struct Encoding {
    std::vector<std::int32_t> ids;
    std::vector<std::int32_t> types;  ///< the segment of each id
  };

  /// Reads a `tokenizer.json`, or what a folder has: `tokenizer.json`, else `vocab.txt` (WordPiece), else `vocab.json`
  /// and `merges.txt` (byte-level BPE: CLIP's, RoBERTa's, Qwen's or GPT-2's, by the folder's configuration or its
  /// vocabulary), else a model of SentencePiece (`sentencepiece.bpe.model`, `spiece.model` or `tokenizer.model`:
  /// XLM-RoBERTa's, T5's, SigLIP's, Llama's or Gemma's, by the folder's configuration), completed by
  /// `tokenizer_config.json`. What tokenizers of transformers and OpenCLIP do beside their tokenizer.json is done too,
  /// as SigLIP's lower-casing, BERT's where `tokenizer_config.json` says otherwise than its file, and what OpenCLIP
  /// cleans texts of, but for ftfy's mending of texts that were decoded by a wrong encoding. Throws FileError, naming
  /// file and field, for what is malformed or not supported.
  static Tokenizer load(const std::filesystem::path& folder_or_file, const TokenizerOptions& options = {});

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  /// Throws ValueError where truncation cannot be done as the file says: fewer tokens than special ones, or a text that
  /// is not there or too short to be the one that is cut; and for an unknown token where the file names none for it.
  Encoding encode(std::string_view text, const EncodeOptions& options = {}) const;
  Encoding encode_pair(std::string_view first, std::string_view second, const EncodeOptions& options = {}) const;
  /// As `encode` for each, on all threads.
  std::vector<Encoding> encode_batch(std::span<const std::string> texts, const EncodeOptions& options = {}) const;

  /// All ids are below it, which an embedding table must have as many rows as.
  std::int64_t vocabulary_size() const;
  /// 0 where the files name no token for padding.
  std::int32_t pad_id() const;
  bool pads_left() const;
  std::optional<std::int32_t> id_of(std::string_view token) const;
  /// Throws ValueError for an id that no token has.
  std::string token(std::int32_t id) const;
  /// What longer texts are cut to, special tokens included.
  std::optional<std::int64_t> max_tokens() const;

 private:
  struct State;
  explicit Tokenizer(std::unique_ptr<const State> state);

  std::unique_ptr<const State> state_;
};

}  // namespace tapecache::data
