#include "text_painter.h"

#include <ft2build.h>
#include FT_FREETYPE_H

#include <algorithm>
#include <array>
#include <filesystem>
#include <sstream>

#include "tapecache/core/error.h"

namespace clip_emoji {

namespace {

constexpr std::array kFontPaths{"/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
                                "/usr/share/fonts/dejavu-sans-fonts/DejaVuSans.ttf",
                                "/usr/share/fonts/TTF/DejaVuSans.ttf"};

/// Code points of UTF-8 text; a malformed byte stands for itself.
std::vector<char32_t> code_points(std::string_view text) {
  std::vector<char32_t> points;
  for (std::size_t i = 0; i < text.size();) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const std::size_t length = byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : byte >= 0xC0 ? 2 : 1;
    if (length == 1 || i + length > text.size()) {
      points.push_back(byte);
      ++i;
      continue;
    }
    char32_t point = byte & (0xFFu >> (length + 1));
    for (std::size_t k = 1; k < length; ++k) point = point << 6 | (static_cast<unsigned char>(text[i + k]) & 0x3Fu);
    points.push_back(point);
    i += length;
  }
  return points;
}

}  // namespace

struct TextPainter::Font {
  FT_Library library = nullptr;
  FT_Face face = nullptr;

  ~Font() {
    if (face) FT_Done_Face(face);
    if (library) FT_Done_FreeType(library);
  }
};

TextPainter::TextPainter(int pixel_size) : font_(std::make_unique<Font>()) {
  const auto path =
      std::find_if(kFontPaths.begin(), kFontPaths.end(), [](const char* p) { return std::filesystem::exists(p); });
  if (path == kFontPaths.end()) {
    throw tapecache::FileError(std::string(kFontPaths[0]) +
                               ": not found; captions are drawn in it, install "
                               "fonts-dejavu-core");
  }
  if (FT_Init_FreeType(&font_->library) != 0 || FT_New_Face(font_->library, *path, 0, &font_->face) != 0 ||
      FT_Set_Pixel_Sizes(font_->face, 0, static_cast<FT_UInt>(pixel_size)) != 0) {
    throw tapecache::FileError(std::string(*path) + ": FreeType cannot read this font");
  }
}

TextPainter::~TextPainter() = default;

int TextPainter::line_height() const { return static_cast<int>(font_->face->size->metrics.height >> 6); }

int TextPainter::width(std::string_view text) const {
  FT_Pos advance = 0;
  for (char32_t point : code_points(text)) {
    if (FT_Load_Char(font_->face, point, FT_LOAD_DEFAULT) == 0) advance += font_->face->glyph->advance.x;
  }
  return static_cast<int>((advance + 63) >> 6);
}

std::vector<std::string> TextPainter::wrap(std::string_view text, int max_width, std::size_t max_lines) const {
  std::vector<std::string> lines;
  std::istringstream words{std::string(text)};
  bool cut = false;
  for (std::string word; words >> word;) {
    const std::string longer = lines.empty() || lines.back().empty() ? word : lines.back() + " " + word;
    if (!lines.empty() && width(longer) <= max_width) {
      lines.back() = longer;
    } else if (lines.size() < max_lines) {
      lines.push_back(word);
    } else {
      cut = true;
      break;
    }
  }
  constexpr const char* kEllipsis = "\u2026";
  for (std::string& line : lines) {
    const bool last_of_cut = cut && &line == &lines.back();
    if (!last_of_cut && width(line) <= max_width) continue;
    while (!line.empty() && width(line + kEllipsis) > max_width) line.pop_back();
    line += kEllipsis;
  }
  return lines;
}

void TextPainter::draw(tapecache::data::Image& image, int x, int y, std::string_view text, int shade) const {
  const int baseline = y + static_cast<int>(font_->face->size->metrics.ascender >> 6);
  FT_Pos pen = static_cast<FT_Pos>(x) << 6;
  for (char32_t point : code_points(text)) {
    if (FT_Load_Char(font_->face, point, FT_LOAD_RENDER) != 0) continue;
    const FT_GlyphSlot glyph = font_->face->glyph;
    const int left = static_cast<int>(pen >> 6) + glyph->bitmap_left, top = baseline - glyph->bitmap_top;
    for (int row = 0; row < static_cast<int>(glyph->bitmap.rows); ++row) {
      for (int col = 0; col < static_cast<int>(glyph->bitmap.width); ++col) {
        const int px = left + col, py = top + row;
        if (px < 0 || py < 0 || px >= image.width || py >= image.height) continue;
        const int cover = glyph->bitmap.buffer[row * glyph->bitmap.pitch + col];
        std::uint8_t* pixel = &image.pixels[static_cast<std::size_t>((py * image.width + px) * image.channels)];
        for (int c = 0; c < image.channels; ++c) {
          pixel[c] = static_cast<std::uint8_t>((pixel[c] * (255 - cover) + shade * cover) / 255);
        }
      }
    }
    pen += glyph->advance.x;
  }
}

}  // namespace clip_emoji
