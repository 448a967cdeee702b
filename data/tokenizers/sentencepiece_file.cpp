#include "tapecache/data/tokenizers/sentencepiece_file.h"

#include <cmath>
#include <cstring>

#include <fmt/format.h>

#include "tapecache/core/error.h"
#include "tapecache/data/tokenizers/fields.h"
#include "tapecache/data/tokenizers/unicode.h"

namespace tapecache::data::tokenizers {

namespace {

/// A message of Protocol Buffers, field by field.
class Message {
 public:
  Message(const std::filesystem::path& path, std::string_view bytes) : path_(path), rest_(bytes) {}

  /// Goes to the next field; false at the end.
  bool next() {
    if (rest_.empty()) return false;
    const std::uint64_t key = varint();
    field_ = key >> 3;
    number_ = 0;
    text_ = {};
    switch (key & 7) {
      case 0:
        number_ = varint();
        return true;
      case 1:
        take(8);
        return true;
      case 2:
        text_ = take(varint());
        return true;
      case 5:
        text_ = take(4);
        return true;
      default:
        throw malformed();
    }
  }
  std::uint64_t field() const { return field_; }
  std::uint64_t number() const { return number_; }
  std::string_view text() const { return text_; }
  Message message() const { return Message(path_, text_); }
  float real() const {
    if (text_.size() != sizeof(float)) throw malformed();
    float value = 0;
    std::memcpy(&value, text_.data(), sizeof value);
    return value;
  }
  FileError malformed() const { return FileError(fmt::format("{}: is no model of SentencePiece", path_.string())); }

 private:
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1).front());
      value |= std::uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return value;
    }
    throw malformed();
  }
  std::string_view take(std::uint64_t bytes) {
    if (bytes > rest_.size()) throw malformed();
    const std::string_view taken = rest_.substr(0, bytes);
    rest_.remove_prefix(bytes);
    return taken;
  }

  const std::filesystem::path& path_;
  std::string_view rest_, text_;
  std::uint64_t field_ = 0, number_ = 0;
};

SentencePieceFile::Piece read_piece(Message message, const std::filesystem::path& path, std::size_t place) {
  SentencePieceFile::Piece piece;
  while (message.next()) {
    if (message.field() == 1) piece.text = message.text();
    else if (message.field() == 2) piece.score = message.real();
    else if (message.field() == 3) piece.kind = static_cast<SentencePieceFile::Kind>(message.number() & 0xFF);
  }
  if (!is_well_formed(piece.text)) throw FileError(fmt::format("{}: piece {} is not UTF-8", path.string(), place));
  if (!std::isfinite(piece.score)) {
    throw FileError(fmt::format("{}: piece {} has the score {}", path.string(), place, piece.score));
  }
  return piece;
}

}  // namespace

SentencePieceFile::SentencePieceFile(const std::filesystem::path& path) {
  const std::string bytes = file_bytes(path);
  Message model(path, bytes);
  while (model.next()) {
    if (model.field() == 1) {
      if (pieces.size() >= static_cast<std::size_t>(kMaxTokens)) throw model.malformed();
      pieces.push_back(read_piece(model.message(), path, pieces.size()));
    } else if (model.field() == 2) {
      Message trainer = model.message();
      while (trainer.next()) {
        if (trainer.field() == 3) is_unigram = trainer.number() == 1, is_bpe = trainer.number() == 2;
        else if (trainer.field() == 24) plain_blanks &= trainer.number() == 0;
        else if (trainer.field() == 35) byte_fallback = trainer.number() != 0;
        else if (trainer.field() == 40) unknown = static_cast<std::int64_t>(trainer.number());
      }
    } else if (model.field() == 3) {
      Message normalizer = model.message();
      while (normalizer.next()) {
        if (normalizer.field() == 2) charsmap = normalizer.text();
        else if (normalizer.field() == 3) dummy_prefix = normalizer.number() != 0;
        else if (normalizer.field() == 4 || normalizer.field() == 5) plain_blanks &= normalizer.number() != 0;
      }
    }
  }
  if (pieces.empty())
    throw FileError(fmt::format("{}: has no pieces, expected a model of SentencePiece", path.string()));
  if (unknown < 0 || unknown >= static_cast<std::int64_t>(pieces.size())) {
    throw FileError(fmt::format("{}: the unknown piece is {} of {}", path.string(), unknown, pieces.size()));
  }
}

}  // namespace tapecache::data::tokenizers
