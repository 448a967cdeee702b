#include "confusion.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include <fmt/format.h>

namespace vit_fashion_mnist {

namespace {

constexpr int kCell = 56, kLeft = 110, kTop = 120, kRight = 76;

/// From white to dark blue; bent, so that a few mistakes show beside a thousand hits.
std::string shade(double share) {
  const double t = std::sqrt(share);
  const auto mix = [&](int from, int to) { return static_cast<int>(std::lround(from + (to - from) * t)); };
  return fmt::format("#{:02x}{:02x}{:02x}", mix(255, 8), mix(255, 64), mix(255, 120));
}

}  // namespace

std::int64_t Confusion::of_class(int truth) const {
  const auto& row = counts_[static_cast<std::size_t>(truth)];
  return std::accumulate(row.begin(), row.end(), std::int64_t{0});
}

std::int64_t Confusion::total() const {
  std::int64_t sum = 0;
  for (int truth = 0; truth < kClasses; ++truth) sum += of_class(truth);
  return sum;
}

std::int64_t Confusion::right() const {
  std::int64_t sum = 0;
  for (int truth = 0; truth < kClasses; ++truth) sum += count(truth, truth);
  return sum;
}

double Confusion::accuracy() const {
  return total() == 0 ? 0 : static_cast<double>(right()) / static_cast<double>(total());
}

std::string confusion_svg(const Confusion& confusion) {
  constexpr int kSide = kCell * kClasses, kWidth = kLeft + kSide + kRight, kHeight = kTop + kSide + 20;
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" "
      "font-family=\"sans-serif\" font-size=\"14\" text-anchor=\"middle\">\n"
      "<rect width=\"{0}\" height=\"{1}\" fill=\"#fff\"/>\n"
      "<text x=\"{2}\" y=\"28\" font-size=\"18\">{3} of {4} test pictures right ({5:.2f} %)</text>\n"
      "<text x=\"{6}\" y=\"54\" fill=\"#444\">taken for</text>\n"
      "<text x=\"{7}\" y=\"{8}\" fill=\"#444\">right</text>\n",
      kWidth, kHeight, kWidth / 2, confusion.right(), confusion.total(), 100 * confusion.accuracy(), kLeft + kSide / 2,
      kLeft + kSide + kRight / 2, kTop - 10);
  for (int truth = 0; truth < kClasses; ++truth) {
    const char* name = kClassNames[static_cast<std::size_t>(truth)];
    const auto all = static_cast<double>(std::max<std::int64_t>(1, confusion.of_class(truth)));
    const int y = kTop + truth * kCell, middle = y + kCell / 2 + 5;
    svg += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\n", kLeft - 10, middle, name);
    svg += fmt::format("<text transform=\"translate({} {}) rotate(-40)\" text-anchor=\"start\">{}</text>\n",
                       kLeft + truth * kCell + kCell / 2 - 4, kTop - 10, name);
    for (int found = 0; found < kClasses; ++found) {
      const std::int64_t count = confusion.count(truth, found);
      const double share = static_cast<double>(count) / all;
      const int x = kLeft + found * kCell;
      svg += fmt::format("<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"{}\" stroke=\"#ccc\"/>", x, y,
                         kCell, kCell, shade(share));
      if (count == 0) continue;
      svg += fmt::format("<text x=\"{}\" y=\"{}\" fill=\"{}\">{}</text>", x + kCell / 2, middle,
                         share > 0.2 ? "#fff" : "#222", count);
    }
    svg += fmt::format("\n<text x=\"{}\" y=\"{}\">{:.1f} %</text>\n", kLeft + kSide + kRight / 2, middle,
                       100 * static_cast<double>(confusion.count(truth, truth)) / all);
  }
  return svg + "</svg>\n";
}

}  // namespace vit_fashion_mnist
