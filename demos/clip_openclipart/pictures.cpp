// Small pictures of large ones, and a sheet of many: what the demo's script has no library for.
#include <algorithm>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

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
  return data::pad_to_square(data::resize(image, scaled(image.width), scaled(image.height), data::Resampling::kBicubic),
                             255);
}

std::vector<std::filesystem::path> lines_of(const char* path) {
  std::ifstream in(path);
  std::vector<std::filesystem::path> lines;
  for (std::string line; std::getline(in, line);) lines.emplace_back(line);
  return lines;
}

/// Of each file that is listed FOLDER/0.png, FOLDER/1.png, and so on.
void make_thumbnails(const std::vector<std::filesystem::path>& files, const std::filesystem::path& folder, int side) {
  std::filesystem::create_directories(folder);
  parallel_for(static_cast<std::int64_t>(files.size()), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      data::write_png(folder / (std::to_string(i) + ".png"), squared(files[static_cast<std::size_t>(i)], side));
    }
  });
}

/// The files from left to right and top to bottom; an empty line leaves a place free.
void make_sheet(const std::vector<std::filesystem::path>& files, const std::filesystem::path& out, int columns) {
  constexpr int kSide = 96, kGap = 6, kStep = kSide + kGap;
  const int rows = (static_cast<int>(files.size()) + columns - 1) / columns;
  data::Image sheet{columns * kStep + kGap, rows * kStep + kGap, 3, {}};
  sheet.pixels.assign(static_cast<std::size_t>(sheet.width) * static_cast<std::size_t>(sheet.height) * 3, 225);
  for (std::size_t i = 0; i < files.size(); ++i) {
    if (files[i].empty()) continue;
    const data::Image picture = squared(files[i], kSide);
    const int left = static_cast<int>(i) % columns * kStep + kGap, top = static_cast<int>(i) / columns * kStep + kGap;
    for (int y = 0; y < kSide; ++y) {
      std::copy_n(picture.pixels.begin() + static_cast<std::ptrdiff_t>(y) * kSide * 3, kSide * 3,
                  sheet.pixels.begin() + (static_cast<std::ptrdiff_t>(top + y) * sheet.width + left) * 3);
    }
  }
  data::write_png(out, sheet);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string command = argc == 5 ? argv[1] : "";
  if (command != "thumbnails" && command != "sheet") {
    std::fprintf(stderr, "pictures thumbnails LIST FOLDER SIDE | pictures sheet LIST OUT COLUMNS\n");
    return 1;
  }
  try {
    const auto files = lines_of(argv[2]);
    const int number = std::max(1, std::atoi(argv[4]));
    if (command == "sheet") make_sheet(files, argv[3], number);
    else make_thumbnails(files, argv[3], number);
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "pictures: %s\n", e.what());
    return 1;
  }
}
