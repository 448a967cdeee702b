#include "retrieval.h"

#include <algorithm>
#include <array>
#include <numeric>

#include <fmt/format.h>

#include "captions.h"
#include "emoji_source.h"
#include "tapecache/core/error.h"
#include "tapecache/ops/linear.h"
#include "text_painter.h"

namespace clip_emoji {

using tapecache::data::Image;

namespace {

constexpr int kPicture = 72;
constexpr int kMargin = 16;
constexpr int kCaptionWidth = 330;
constexpr int kColumn = kPicture + 20;
constexpr int kRow = kPicture + 34;
constexpr int kHeader = 40;
constexpr int kFrame = 4;
constexpr std::array<std::uint8_t, 3> kRight{0x00, 0x9E, 0x73};

void fill(Image& image, int x, int y, int width, int height, std::array<std::uint8_t, 3> color) {
  for (int py = std::max(0, y); py < std::min(image.height, y + height); ++py) {
    for (int px = std::max(0, x); px < std::min(image.width, x + width); ++px) {
      std::copy(color.begin(), color.end(), &image.pixels[static_cast<std::size_t>((py * image.width + px) * 3)]);
    }
  }
}

void paste(Image& image, int x, int y, const Image& picture) {
  picture.check("draw_retrieval");
  if (picture.width != kPicture || picture.height != kPicture || picture.channels != 3) {
    throw tapecache::ValueError(
        fmt::format("draw_retrieval: a picture is {} x {} with {} channels, expected {} x {} "
                    "RGB",
                    picture.width, picture.height, picture.channels, kPicture, kPicture));
  }
  for (int row = 0; row < picture.height; ++row) {
    const auto from = picture.pixels.begin() + row * picture.width * 3;
    std::copy(from, from + picture.width * 3, image.pixels.begin() + ((y + row) * image.width + x) * 3);
  }
}

}  // namespace

std::vector<RetrievalRow> retrieve(const Dataset& data, const tapecache::Tensor& texts, const tapecache::Tensor& images,
                                   std::int64_t count, std::int64_t best) {
  const auto n = static_cast<std::int64_t>(data.held_out.size());
  count = std::min(count, n);
  best = std::min(best, n);
  const tapecache::Tensor scores =
      tapecache::ops::matmul(texts, images, {.transpose_b = true}).value().to(tapecache::DType::kFloat64);
  std::vector<RetrievalRow> rows;
  for (std::int64_t k = 0; k < count; ++k) {
    const std::int64_t query = (2 * k + 1) * n / (2 * count);
    const double* score = scores.data<double>() + query * n;
    std::vector<std::int64_t> order(static_cast<std::size_t>(n));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return score[a] > score[b]; });
    RetrievalRow row;
    row.right = data.held_out[static_cast<std::size_t>(query)];
    row.caption = caption(data.pairs[static_cast<std::size_t>(row.right)]);
    for (std::int64_t i = 0; i < best; ++i) {
      const std::int64_t found = order[static_cast<std::size_t>(i)];
      row.found.push_back(data.held_out[static_cast<std::size_t>(found)]);
      row.similarity.push_back(score[found]);
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

std::vector<Image> large_pictures(const EmojiPaths& paths, int size) {
  std::vector<Image> pictures;
  for (EmojiPair& pair : load_emoji(paths, size)) pictures.push_back({size, size, 3, std::move(pair.rgb)});
  return pictures;
}

Image draw_retrieval(const std::vector<RetrievalRow>& rows, const std::vector<Image>& pictures) {
  const TextPainter text(15), small(12);
  std::size_t columns = 0;
  for (const RetrievalRow& row : rows) columns = std::max(columns, row.found.size());
  const int first_column = 2 * kMargin + kCaptionWidth, found_column = first_column + kColumn + kMargin;
  Image image{found_column + static_cast<int>(columns) * kColumn + kMargin,
              kHeader + static_cast<int>(rows.size()) * kRow + kMargin,
              3,
              {}};
  image.pixels.assign(static_cast<std::size_t>(image.width * image.height * 3), 255);

  text.draw(image, kMargin, kMargin, "held-out caption");
  text.draw(image, first_column, kMargin, "its emoji");
  text.draw(image, found_column, kMargin, "best five pictures, the right one framed");
  int y = kHeader;
  for (const RetrievalRow& row : rows) {
    fill(image, kMargin, y, image.width - 2 * kMargin, 1, {0xDD, 0xDD, 0xDD});
    const int top = y + 10;
    int line_y = top + 4;
    for (const std::string& line : text.wrap(row.caption, kCaptionWidth, 4)) {
      text.draw(image, kMargin, line_y, line);
      line_y += text.line_height();
    }
    paste(image, first_column, top, pictures.at(static_cast<std::size_t>(row.right)));
    for (std::size_t i = 0; i < row.found.size(); ++i) {
      const int x = found_column + static_cast<int>(i) * kColumn;
      if (row.found[i] == row.right) {
        fill(image, x - kFrame, top - kFrame, kPicture + 2 * kFrame, kPicture + 2 * kFrame, kRight);
      }
      paste(image, x, top, pictures.at(static_cast<std::size_t>(row.found[i])));
      const std::string score = fmt::format("{:.2f}", row.similarity[i]);
      small.draw(image, x + (kPicture - small.width(score)) / 2, top + kPicture + 5, score, 110);
    }
    y += kRow;
  }
  return image;
}

}  // namespace clip_emoji
