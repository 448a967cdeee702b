// Small pictures of large ones, and a sheet of many: what the demo's script has no library for.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "demos/clip_emoji/text_painter.h"
#include "tapecache/core/parallel_for.h"
#include "tapecache/data/images/image_processor.h"
#include "tapecache/data/png.h"

namespace {

using namespace tapecache;

/// A picture over white, within a white square.
data::Image squared(const std::filesystem::path& path, int side) {
  const data::Image image = data::read_image(path, {.over_white = true});
  const int longer = std::max(image.width, image.height);
  const auto scaled = [&](int size) { return std::max(1, static_cast<int>(std::int64_t{size} * side / longer)); };
  return data::pad_to_square(
      data::resize(image, scaled(image.width), scaled(image.height), data::Image::Resampling::kBicubic), 255);
}

std::vector<std::string> lines_of(const char* path) {
  std::ifstream in(path);
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

/// Of each file that is listed FOLDER/0.png, FOLDER/1.png, and so on.
void make_thumbnails(const std::vector<std::string>& files, const std::filesystem::path& folder, int side) {
  std::filesystem::create_directories(folder);
  parallel_for(static_cast<std::int64_t>(files.size()), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      data::write_png(folder / (std::to_string(i) + ".png"), squared(files[static_cast<std::size_t>(i)], side));
    }
  });
}

/// What a line says before its first tab, and the files that it lists behind, with tabs between.
struct SheetRow {
  std::string label;
  std::vector<std::string> files;

  explicit SheetRow(const std::string& line) {
    std::istringstream parts(line);
    std::getline(parts, label, '\t');
    for (std::string file; std::getline(parts, file, '\t');) files.push_back(file);
  }
};

/// A row of pictures of each, beside its label.
void make_sheet(const std::vector<SheetRow>& rows, const std::filesystem::path& out) {
  constexpr int kSide = 96, kGap = 6, kStep = kSide + kGap, kLabel = 130, kText = 15;
  constexpr std::uint8_t kBackground = 225;
  const clip_emoji::TextPainter painter(kText);
  std::size_t columns = 0;
  for (const SheetRow& row : rows) columns = std::max(columns, row.files.size());
  data::Image sheet{
      kGap + kLabel + static_cast<int>(columns) * kStep + kGap, static_cast<int>(rows.size()) * kStep + kGap, 3, {}};
  sheet.pixels.assign(static_cast<std::size_t>(sheet.width) * static_cast<std::size_t>(sheet.height) * 3, kBackground);
  for (int top = kGap; const SheetRow& row : rows) {
    const std::vector<std::string> words = painter.wrap(row.label, kLabel - kGap, kSide / painter.line_height());
    int y = top + (kSide - static_cast<int>(words.size()) * painter.line_height()) / 2;
    for (const std::string& line : words) {
      painter.draw(sheet, kGap, y, line);
      y += painter.line_height();
    }
    for (int left = kGap + kLabel; const std::string& file : row.files) {
      const data::Image picture = squared(file, kSide);
      for (int line = 0; line < kSide; ++line) {
        std::copy_n(picture.pixels.begin() + static_cast<std::ptrdiff_t>(line) * kSide * 3, kSide * 3,
                    sheet.pixels.begin() + (static_cast<std::ptrdiff_t>(top + line) * sheet.width + left) * 3);
      }
      left += kStep;
    }
    top += kStep;
  }
  data::write_png(out, sheet);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string command = argc > 1 ? argv[1] : "";
  if (!(command == "thumbnails" && argc == 5) && !(command == "sheet" && argc == 4)) {
    std::fprintf(
        stderr,
        "pictures thumbnails LIST FOLDER SIDE   small pictures of the files that LIST has, one a line\n"
        "pictures sheet LIST OUT                a row of pictures for each line: words, then files, by tabs\n");
    return 1;
  }
  try {
    const std::vector<std::string> lines = lines_of(argv[2]);
    if (command == "sheet") make_sheet({lines.begin(), lines.end()}, argv[3]);
    else make_thumbnails(lines, argv[3], std::max(1, std::atoi(argv[4])));
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "pictures: %s\n", e.what());
    return 1;
  }
}
