#include "emoji_font.h"

#include <ft2build.h>
#include FT_FREETYPE_H
#include <hb-ot.h>
#include <hb.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <type_traits>
#include <vector>

#include <fmt/format.h>

#include "required_file.h"
#include "tapecache/core/error.h"

namespace clip_emoji {
namespace {

template <auto Destroy>
struct Destroyer {
  template <typename T>
  void operator()(T* handle) const {
    Destroy(handle);
  }
};

template <typename Handle, auto Destroy>
using Owned = std::unique_ptr<std::remove_pointer_t<Handle>, Destroyer<Destroy>>;

constexpr const char* kExpected = "a font with colour bitmaps (tables CBDT and CBLC) such as NotoColorEmoji.ttf";
constexpr const char* kPackage = "fonts-noto-color-emoji";

/// The index of the largest bitmap size, or -1 where there is none.
int largest_strike(FT_Face face) {
  int largest = -1;
  for (int i = 0; i < face->num_fixed_sizes; ++i) {
    if (largest < 0 || face->available_sizes[i].y_ppem > face->available_sizes[largest].y_ppem) largest = i;
  }
  return largest;
}

tapecache::data::Image to_rgba(const FT_Bitmap& bitmap) {
  const std::size_t width = bitmap.width;
  const std::size_t height = bitmap.rows;
  tapecache::data::Image image{static_cast<int>(width), static_cast<int>(height), 4,
                               std::vector<std::uint8_t>(width * height * 4)};
  std::uint8_t* target = image.pixels.data();
  for (std::size_t y = 0; y < height; ++y) {
    // A negative pitch means that the buffer begins with the bottom row.
    const std::size_t row = bitmap.pitch < 0 ? height - 1 - y : y;
    const std::uint8_t* bgra = bitmap.buffer + row * static_cast<std::size_t>(std::abs(bitmap.pitch));
    for (std::size_t x = 0; x < width; ++x, bgra += 4, target += 4) {
      target[0] = bgra[2];
      target[1] = bgra[1];
      target[2] = bgra[0];
      target[3] = bgra[3];
    }
  }
  return image;
}

}  // namespace

struct EmojiFont::Handles {
  std::filesystem::path path;
  Owned<FT_Library, FT_Done_FreeType> library;
  Owned<FT_Face, FT_Done_Face> face;
  Owned<hb_font_t*, hb_font_destroy> shaper;
  Owned<hb_buffer_t*, hb_buffer_destroy> buffer;

  /// The glyph that a sequence is joined into, where it is one and not .notdef.
  std::optional<FT_UInt> glyph(std::string_view sequence) {
    hb_buffer_reset(buffer.get());
    const int length = static_cast<int>(sequence.size());
    hb_buffer_add_utf8(buffer.get(), sequence.data(), length, 0, length);
    hb_buffer_guess_segment_properties(buffer.get());
    // A variation selector that no ligature took in would otherwise stay behind as an empty glyph.
    hb_buffer_set_flags(buffer.get(), HB_BUFFER_FLAG_REMOVE_DEFAULT_IGNORABLES);
    hb_shape(shaper.get(), buffer.get(), nullptr, 0);
    unsigned int count = 0;
    const hb_glyph_info_t* glyphs = hb_buffer_get_glyph_infos(buffer.get(), &count);
    if (count != 1 || glyphs[0].codepoint == 0) return std::nullopt;
    return glyphs[0].codepoint;
  }
};

EmojiFont::EmojiFont(const std::filesystem::path& font) : handles_(std::make_unique<Handles>()) {
  require_file(font, kExpected, kPackage);
  const auto fail = [&](const char* found) {
    return tapecache::FileError(fmt::format("{}: {}, expected {}", font.string(), found, kExpected));
  };
  handles_->path = font;
  FT_Library library = nullptr;
  if (FT_Init_FreeType(&library) != 0) throw tapecache::Error("FreeType: cannot be initialised");
  handles_->library.reset(library);
  FT_Face face = nullptr;
  if (FT_New_Face(library, font.c_str(), 0, &face) != 0) throw fail("not a font that FreeType can read");
  handles_->face.reset(face);
  const int strike = largest_strike(face);
  if (!FT_HAS_COLOR(face) || strike < 0) throw fail("no colour bitmaps in this font");
  if (FT_Select_Size(face, strike) != 0) throw fail("unusable bitmap sizes");

  const Owned<hb_blob_t*, hb_blob_destroy> blob(hb_blob_create_from_file_or_fail(font.c_str()));
  if (!blob) throw fail("not readable");
  const Owned<hb_face_t*, hb_face_destroy> shaping_face(hb_face_create(blob.get(), 0));
  handles_->shaper.reset(hb_font_create(shaping_face.get()));
  handles_->buffer.reset(hb_buffer_create());
}

EmojiFont::~EmojiFont() = default;
EmojiFont::EmojiFont(EmojiFont&&) noexcept = default;
EmojiFont& EmojiFont::operator=(EmojiFont&&) noexcept = default;

std::optional<tapecache::data::Image> EmojiFont::draw(std::string_view sequence) {
  const auto glyph = handles_->glyph(sequence);
  if (!glyph) return std::nullopt;
  FT_Face face = handles_->face.get();
  const FT_Error error = FT_Load_Glyph(face, *glyph, FT_LOAD_COLOR);
  if (error == FT_Err_Unimplemented_Feature) {
    throw tapecache::Error("FreeType: built without libpng, which colour bitmaps need");
  }
  if (error == FT_Err_Missing_Bitmap) return std::nullopt;
  if (error != 0) {
    throw tapecache::FileError(fmt::format("{}: damaged: FreeType cannot decode glyph {} (error {:#x}), expected {}",
                                           handles_->path.string(), *glyph, error, kExpected));
  }
  const FT_Bitmap& bitmap = face->glyph->bitmap;
  if (bitmap.pixel_mode != FT_PIXEL_MODE_BGRA || bitmap.width == 0 || bitmap.rows == 0) return std::nullopt;
  return to_rgba(bitmap);
}

}  // namespace clip_emoji
