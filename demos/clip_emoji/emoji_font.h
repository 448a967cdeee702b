#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string_view>

#include "tapecache/data/image.h"

namespace clip_emoji {

/// A font of colour bitmaps (OpenType tables CBDT and CBLC): HarfBuzz turns a sequence of characters into a glyph,
/// FreeType gives the glyph's picture.
class EmojiFont {
 public:
  /// Opens the font at its largest bitmap size. Throws tapecache::FileError where the file is missing, not a font or
  /// without colour bitmaps.
  explicit EmojiFont(const std::filesystem::path& font);
  ~EmojiFont();
  EmojiFont(EmojiFont&&) noexcept;
  EmojiFont& operator=(EmojiFont&&) noexcept;

  /// Draws a UTF-8 sequence as RGBA with premultiplied alpha, about 136 x 128 pixels for Noto Color Emoji; nothing
  /// where the font does not join the sequence into exactly one glyph that has a colour bitmap. Throws
  /// tapecache::FileError for a damaged bitmap.
  std::optional<tapecache::data::Image> draw(std::string_view sequence);

 private:
  struct Handles;
  std::unique_ptr<Handles> handles_;
};

}  // namespace clip_emoji
