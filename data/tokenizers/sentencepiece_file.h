#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#pragma GCC visibility push(hidden)

namespace tapecache::data::tokenizers {

/// What a `.model` of SentencePiece holds of use (sentencepiece_model.proto).
struct SentencePieceFile {
  enum class Kind : std::uint8_t { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };
  struct Piece {
    std::string text = {};
    float score = 0;
    Kind kind = Kind::kNormal;
  };

  /// Throws FileError for what is malformed.
  explicit SentencePieceFile(const std::filesystem::path& path);

  std::vector<Piece> pieces;
  bool is_unigram = true;  ///< otherwise byte-pair encoding, or another
  bool is_bpe = false;
  bool byte_fallback = false;
  bool dummy_prefix = true;  ///< a blank is put before each text
  bool plain_blanks = true;  ///< runs of them are one, and each is shown before what follows it
  std::int64_t unknown = 0;  ///< the place of the piece for what is unknown
  std::string charsmap;      ///< of characters to what they are normalised to
};

}  // namespace tapecache::data::tokenizers

#pragma GCC visibility pop
