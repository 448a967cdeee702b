#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tapecache/data/image.h"

namespace clip_emoji {

/// Draws lines of Latin text into RGB images with FreeType, in DejaVu Sans.
class TextPainter {
 public:
  /// Throws tapecache::FileError naming the package where the font is not installed.
  explicit TextPainter(int pixel_size);
  ~TextPainter();

  int width(std::string_view text) const;
  int line_height() const;
  /// Words put into lines of at most `max_width` pixels; what does not fit `max_lines` is cut with an ellipsis.
  std::vector<std::string> wrap(std::string_view text, int max_width, std::size_t max_lines) const;
  /// Draws in grey level `shade` (0 is black); (x, y) is the top left of the line.
  void draw(tapecache::data::Image& image, int x, int y, std::string_view text, int shade = 0) const;

 private:
  struct Font;
  std::unique_ptr<Font> font_;
};

}  // namespace clip_emoji
