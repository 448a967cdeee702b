#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>

#include <fmt/format.h>

#include "plots.h"
#include "tapecache/core/error.h"
#include "wording.h"

namespace clip_emoji {

namespace {

constexpr std::size_t kLevels = 16;
constexpr int kSide = 224, kGap = 34, kLeft = 44, kTop = 92, kWidth = 820, kHeight = 384;

/// White to dark blue in equal steps of value; bent so that the bulk of wrong pairs stays pale.
std::string shade(std::size_t level) {
  static constexpr std::array<std::array<double, 3>, 4> kStops{
      {{250, 251, 253}, {158, 202, 233}, {0, 114, 178}, {4, 32, 74}}};
  const double at = std::pow(static_cast<double>(level) / (kLevels - 1), 1.3) * (kStops.size() - 1);
  const auto i = std::min(static_cast<std::size_t>(at), kStops.size() - 2);
  const double t = at - static_cast<double>(i);
  const auto mix = [&](std::size_t c) {
    return static_cast<int>(std::lround(kStops[i][c] * (1 - t) + kStops[i + 1][c] * t));
  };
  return fmt::format("#{:02x}{:02x}{:02x}", mix(0), mix(1), mix(2));
}

/// The matrix as one path for each shade, a unit square a cell.
std::string heat_map(const std::vector<float>& logits, std::int64_t n, float low, float high) {
  const float span = std::max(high - low, 1e-6f);
  std::array<std::string, kLevels> cells;
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < n; ++j) {
      const float share = (logits[static_cast<std::size_t>(i * n + j)] - low) / span;
      if (!(share >= 0)) continue;
      const auto level = std::min(static_cast<std::size_t>(share * kLevels), kLevels - 1);
      fmt::format_to(std::back_inserter(cells[level]), "M{} {}h1v1h-1z", j, i);
    }
  }
  std::string map = fmt::format("<symbol id=\"logits-map\" viewBox=\"0 0 {0} {0}\" shape-rendering=\"crispEdges\">", n);
  for (std::size_t level = 0; level < kLevels; ++level) {
    map += fmt::format("<path fill=\"{}\" d=\"{}\"/>", shade(level), cells[level]);
  }
  return map + "</symbol>";
}

struct Panel {
  const char* way;
  std::string note;
  bool cut, blocks_only;
};

std::string draw(const Panel& panel, int x, std::int64_t n, std::int64_t chunk) {
  const std::int64_t blocks = (n + chunk - 1) / chunk;
  const double unit = static_cast<double>(kSide) / static_cast<double>(n);
  const auto at = [&](std::int64_t block) { return static_cast<double>(std::min(n, block * chunk)) * unit; };
  std::string svg = fmt::format(
      "<g transform=\"translate({} {})\"><rect y=\"-37\" width=\"10\" height=\"10\" rx=\"2\" fill=\"{}\"/>"
      "<text x=\"16\" y=\"-28\" font-weight=\"bold\">{}</text><text y=\"-10\" font-size=\"12\" fill=\"#444\">{}</text>"
      "<use href=\"#logits-map\" width=\"{}\" height=\"{}\"/>",
      x, kTop, color_of(panel.way), panel.way, panel.note, kSide, kSide);
  for (std::int64_t i = 0; panel.blocks_only && i < blocks; ++i) {
    for (std::int64_t j = 0; j < blocks; ++j) {
      if (i == j) continue;
      svg += fmt::format(
          "<rect x=\"{:.2f}\" y=\"{:.2f}\" width=\"{:.2f}\" height=\"{:.2f}\" "
          "fill=\"url(#logits-unseen)\"/>",
          at(j), at(i), at(j + 1) - at(j), at(i + 1) - at(i));
    }
  }
  for (std::int64_t b = 1; panel.cut && b < blocks; ++b) {
    svg += fmt::format("<path d=\"M0 {0:.2f}H{1}M{0:.2f} 0V{1}\" stroke=\"#222\" fill=\"none\"{2}/>", at(b), kSide,
                       panel.blocks_only ? "" : " stroke-dasharray=\"4 3\"");
  }
  return svg + fmt::format("<rect width=\"{0}\" height=\"{0}\" fill=\"none\" stroke=\"#222\"/></g>", kSide);
}

}  // namespace

std::string logits_figure(const Results& results) {
  const std::int64_t n = results.logits_size;
  if (n < 1 || results.logits.size() != static_cast<std::size_t>(n * n)) {
    throw tapecache::ValueError(fmt::format("logits_figure: {} logits, expected {} x {}", results.logits.size(), n, n));
  }
  float low = 0, high = 0;
  bool first = true;
  for (const float value : results.logits) {
    if (!std::isfinite(value)) continue;
    low = first ? value : std::min(low, value);
    high = first ? value : std::max(high, value);
    first = false;
  }
  const std::int64_t chunk = std::clamp<std::int64_t>(results.way("accumulation").chunk.value_or(n), 1, n);
  const std::int64_t blocks = (n + chunk - 1) / chunk;
  std::int64_t seen = 0;
  for (std::int64_t b = 0; b < blocks; ++b) {
    const std::int64_t side = std::min(chunk, n - b * chunk);
    seen += side * side;
  }
  const std::string message =
      fmt::format("Of {} logits, direct and gradcache see all, accumulation {} ({})", grouped(n * n), grouped(seen),
                  percent(static_cast<double>(seen) / static_cast<double>(n * n)));
  const Panel panels[] = {{"direct", fmt::format("one loss over {} pairs", n), false, false},
                          {"gradcache", fmt::format("{} chunks, one loss over {} pairs", blocks, n), true, false},
                          {"accumulation", fmt::format("{} chunks, a loss over each {}", blocks, chunk), true, true}};

  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" font-size=\"13\" "
      "role=\"img\"><title>{2}</title>"
      "<defs>{3}<pattern id=\"logits-unseen\" width=\"7\" height=\"7\" patternUnits=\"userSpaceOnUse\">"
      "<rect width=\"7\" height=\"7\" fill=\"#dcdcdc\"/><path d=\"M-1 8L8 -1\" stroke=\"#a8a8a8\"/></pattern></defs>"
      "<rect width=\"{0}\" height=\"{1}\" fill=\"#fff\"/>"
      "<text x=\"{4}\" y=\"26\" text-anchor=\"middle\" font-size=\"15\">{2}</text>"
      "<text transform=\"translate({5} {6}) rotate(-90)\" text-anchor=\"middle\">pictures</text>",
      kWidth, kHeight, message, heat_map(results.logits, n, low, high), kWidth / 2, kLeft - 12, kTop + kSide / 2);
  int x = kLeft;
  for (const Panel& panel : panels) {
    svg += draw(panel, x, n, chunk);
    svg +=
        fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">captions</text>", x + kSide / 2, kTop + kSide + 19);
    x += kSide + kGap;
  }
  // The scale, and what the hatching stands for.
  const int scale_y = kHeight - 32;
  constexpr int kCell = 11;
  const int scale_x = kLeft + 92;
  svg += fmt::format("<g font-size=\"12\"><text x=\"{}\" y=\"{}\">logit: {:.1f}</text>", kLeft, scale_y + 11, low);
  for (std::size_t level = 0; level < kLevels; ++level) {
    svg += fmt::format("<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"13\" fill=\"{}\"/>",
                       scale_x + static_cast<int>(level) * kCell, scale_y, kCell, shade(level));
  }
  const int scale_end = scale_x + static_cast<int>(kLevels) * kCell;
  svg += fmt::format(
      "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"13\" fill=\"none\" stroke=\"#999\"/>"
      "<text x=\"{}\" y=\"{}\">{:.1f}</text>",
      scale_x, scale_y, scale_end - scale_x, scale_end + 8, scale_y + 11, high);
  const int legend_x = kLeft + 2 * (kSide + kGap);
  return svg + fmt::format(
                   "<rect x=\"{}\" y=\"{}\" width=\"24\" height=\"13\" fill=\"url(#logits-unseen)\" "
                   "stroke=\"#999\"/><text x=\"{}\" y=\"{}\">never computed</text></g></svg>",
                   legend_x, scale_y, legend_x + 32, scale_y + 11);
}

}  // namespace clip_emoji
