#include "plots.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <regex>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "gnuplot.h"
#include "tapecache/core/error.h"

namespace clip_emoji {

namespace {

constexpr double kMiB = 1024.0 * 1024.0;
constexpr std::int64_t kSmoothing = 15;  // steps averaged to a line

std::string prologue() {
  return "set encoding utf8\n"
         "set terminal svg size 760,420 font 'DejaVu Sans,13' enhanced background '#ffffff'\n"
         "set border 3 lc rgb '#444444'\nset tics nomirror\nset grid lc rgb '#dddddd' lt 1\n"
         "set key outside top center horizontal samplen 2\n";
}

std::string data_block(const std::string& name, const std::vector<std::pair<double, double>>& points) {
  std::string text = fmt::format("${} << EOD\n", name);
  for (const auto& [x, y] : points) text += fmt::format("{:.9g} {:.9g}\n", x, y);
  return text + "EOD\n";
}

/// A name as gnuplot shows it: its enhanced mode would read '_' as a subscript.
std::string title_of(std::string way) { return std::regex_replace(way, std::regex("_"), "\\\\_"); }

/// gnuplot's SVG as an element of a page: without prolog and with ids of its own.
std::string embedded(const std::string& svg, const std::string& prefix) {
  const std::size_t begin = svg.find("<svg");
  if (begin == std::string::npos) throw tapecache::Error("gnuplot: gave no SVG");
  std::string element = svg.substr(begin);
  element = std::regex_replace(element, std::regex("(\\sid=['\"])"), "$1" + prefix);
  element = std::regex_replace(element, std::regex("(href=['\"]#)"), "$1" + prefix);
  return std::regex_replace(element, std::regex("(url\\(#)"), "$1" + prefix);
}

std::vector<std::pair<double, double>> loss_points(const WayResult& way, bool smooth) {
  std::vector<std::pair<double, double>> points;
  const auto n = static_cast<std::int64_t>(way.records.size());
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int64_t reach = smooth ? kSmoothing / 2 : 0;
    const std::int64_t first = std::max<std::int64_t>(0, i - reach), last = std::min(n - 1, i + reach);
    double sum = 0;
    for (std::int64_t k = first; k <= last; ++k) sum += way.records[static_cast<std::size_t>(k)].loss;
    points.emplace_back(static_cast<double>((i + 1) * way.batch) / 1000.0, sum / static_cast<double>(last - first + 1));
  }
  return points;
}

}  // namespace

const char* color_of(const std::string& way) {
  if (way == "direct") return "#56B4E9";
  if (way == "gradcache") return "#0072B2";
  if (way == "accumulation") return "#D55E00";
  return "#009E73";
}

void require_gnuplot() { run_gnuplot("print 1\n"); }

std::string loss_plot(const Results& results) {
  std::string script = prologue() +
                       "set title 'Training loss (of more negatives it is larger)'\nset xlabel 'pairs seen (thousands)'\nset ylabel 'training loss'\nset yrange [0:*]\n";
  std::vector<std::string> raw, lines;
  for (const WayResult& way : results.ways) {
    script += data_block(way.name + "_raw", loss_points(way, false)) + data_block(way.name, loss_points(way, true));
    const bool dashed = way.name == "gradcache";
    raw.push_back(fmt::format("${}_raw with lines lw 0.6 lc rgb '#C0{}' notitle", way.name, color_of(way.name) + 1));
    lines.push_back(fmt::format("${} with lines lw {} {} lc rgb '{}' title '{}'", way.name, dashed ? 2.5 : 3.5,
                                dashed ? "dt (6,6)" : "dt 1", color_of(way.name), title_of(way.name)));
  }
  raw.insert(raw.end(), lines.begin(), lines.end());
  return embedded(run_gnuplot(script + fmt::format("plot {}\n", fmt::join(raw, ", "))), "loss-");
}

std::string gradient_plot(const Results& results) {
  std::string script = prologue() +
                       "set title 'Distance of the gradient from the direct one, at the same weights'\n"
                       "set xlabel 'step'\nset ylabel '||g - g_{direct}|| / ||g_{direct}||'\nset logscale y\n"
                       "set format y '10^{%T}'\nset key outside top center horizontal\n";
  std::vector<std::string> plots;
  double smallest = results.equality_bound(), largest = 1;
  for (const WayResult& way : results.ways) {
    std::vector<std::pair<double, double>> points;
    for (const StepRecord& record : way.records) {
      if (!record.relative_gradient_difference) continue;
      // An exact 0 has no place on a log axis; it is drawn at the smallest difference that f64 can tell.
      const double value = std::max(*record.relative_gradient_difference, 1e-17);
      points.emplace_back(static_cast<double>(record.step + 1), value);
      smallest = std::min(smallest, value);
      largest = std::max(largest, value);
    }
    if (points.empty()) continue;
    script += data_block(way.name, points);
    plots.push_back(fmt::format("${} with linespoints pt 7 ps 0.7 lw 2 lc rgb '{}' title '{}'", way.name,
                                color_of(way.name), title_of(way.name)));
  }
  plots.push_back(fmt::format("{:g} with lines dt (4,4) lw 1.5 lc rgb '#000000' title 'bound {:g}'",
                              results.equality_bound(), results.equality_bound()));
  script += fmt::format("set yrange [{:g}:{:g}]\n", smallest / 10, largest * 10);
  return embedded(run_gnuplot(script + fmt::format("plot {}\n", fmt::join(plots, ", "))), "gradient-");
}

std::string memory_plot(const Results& results) {
  std::vector<std::pair<double, double>> direct, cached;
  std::vector<std::string> ticks;
  for (const MemoryPoint& p : results.memory) {
    direct.emplace_back(static_cast<double>(p.batch), static_cast<double>(p.direct) / kMiB);
    cached.emplace_back(static_cast<double>(p.batch), static_cast<double>(p.cached) / kMiB);
    ticks.push_back(fmt::format("'{}' {}", p.batch, p.batch));
  }
  const double limit = static_cast<double>(results.memory_limit_bytes) / kMiB;
  const std::string script =
      prologue() +
      fmt::format("set title 'Most memory in use during one step'\nset xlabel 'batch (pairs)'\nset ylabel 'peak, MiB'\n"
                  "set logscale xy 2\nset xtics ({})\nset xrange [{}:{}]\n",
                  fmt::join(ticks, ", "), direct.front().first / 1.3, direct.back().first * 1.3) +
      data_block("direct", direct) + data_block("cached", cached) +
      fmt::format("plot $direct with linespoints pt 7 lw 2.5 lc rgb '{}' title 'direct', $cached with linespoints pt 7 "
                  "lw 2.5 lc rgb '{}' title 'cached, chunk {}', {:g} with lines dt (4,4) lw 1.5 lc rgb '#000000' title "
                  "'limit {:g} MiB'\n",
                  color_of("direct"), color_of("gradcache"), results.way("gradcache").chunk.value_or(0), limit, limit);
  return embedded(run_gnuplot(script), "memory-");
}

std::string logits_figure(const Results& results) {
  constexpr int kLevels = 12;
  constexpr int kSide = 220, kGap = 40, kTop = 50;
  const std::int64_t n = results.logits_size;
  const auto [low, high] = std::minmax_element(results.logits.begin(), results.logits.end());
  const float span = std::max(*high - *low, 1e-6f);
  std::vector<std::string> cells(kLevels);
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < n; ++j) {
      const float share = (results.logits[static_cast<std::size_t>(i * n + j)] - *low) / span;
      const auto level = static_cast<std::size_t>(std::clamp(static_cast<int>(share * kLevels), 0, kLevels - 1));
      fmt::format_to(std::back_inserter(cells[level]), "M{} {}h1v1h-1z", j, i);
    }
  }
  std::string map = "<symbol id=\"logits-map\" viewBox=\"0 0 " + fmt::format("{} {}", n, n) + "\">";
  for (int level = 0; level < kLevels; ++level) {
    // White to dark blue.
    const double t = static_cast<double>(level) / (kLevels - 1);
    map += fmt::format("<path fill=\"#{:02x}{:02x}{:02x}\" d=\"{}\"/>", static_cast<int>(245 - 237 * t),
                       static_cast<int>(249 - 201 * t), static_cast<int>(253 - 146 * t),
                       cells[static_cast<std::size_t>(level)]);
  }
  map += "</symbol>";

  const std::int64_t chunk = results.way("accumulation").chunk.value_or(n);
  const std::int64_t blocks = (n + chunk - 1) / chunk;
  const double unit = static_cast<double>(kSide) / static_cast<double>(n);
  const struct {
    const char *title, *note;
    bool lines, greyed;
  } panels[] = {{"direct", "sees every pair", false, false},
                {"gradcache", "computes in chunks, sees every pair", true, false},
                {"accumulation", "sees the diagonal blocks alone", true, true}};
  std::string svg = fmt::format("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"DejaVu "
                                "Sans, sans-serif\" font-size=\"13\"><defs>{}<pattern id=\"logits-unseen\" width=\"6\" "
                                "height=\"6\" patternUnits=\"userSpaceOnUse\"><rect width=\"6\" height=\"6\" "
                                "fill=\"#d9d9d9\"/><path d=\"M0 6L6 0\" stroke=\"#b5b5b5\"/></pattern></defs>",
                                3 * kSide + 4 * kGap, kSide + kTop + 30, map);
  int x = kGap;
  for (const auto& panel : panels) {
    svg += fmt::format("<g transform=\"translate({} {})\"><text x=\"{}\" y=\"-26\" text-anchor=\"middle\" "
                       "font-weight=\"bold\">{}</text><text x=\"{}\" y=\"-9\" text-anchor=\"middle\" font-size=\"11\" "
                       "fill=\"#555\">{}</text><use href=\"#logits-map\" width=\"{}\" height=\"{}\"/>",
                       x, kTop, kSide / 2, panel.title, kSide / 2, panel.note, kSide, kSide);
    for (std::int64_t i = 0; panel.greyed && i < blocks; ++i) {
      for (std::int64_t j = 0; j < blocks; ++j) {
        if (i == j) continue;
        const std::int64_t w = std::min(chunk, n - j * chunk), h = std::min(chunk, n - i * chunk);
        svg += fmt::format("<rect x=\"{:.2f}\" y=\"{:.2f}\" width=\"{:.2f}\" height=\"{:.2f}\" "
                           "fill=\"url(#logits-unseen)\"/>",
                           static_cast<double>(j * chunk) * unit, static_cast<double>(i * chunk) * unit,
                           static_cast<double>(w) * unit, static_cast<double>(h) * unit);
      }
    }
    for (std::int64_t b = 1; panel.lines && b < blocks; ++b) {
      const double at = static_cast<double>(b * chunk) * unit;
      svg += fmt::format("<path d=\"M0 {:.2f}H{}M{:.2f} 0V{}\" stroke=\"#333\" stroke-width=\"1\" fill=\"none\"{}/>", at,
                         kSide, at, kSide, panel.greyed ? "" : " stroke-dasharray=\"4 3\"");
    }
    svg += fmt::format("<rect width=\"{}\" height=\"{}\" fill=\"none\" stroke=\"#333\"/></g>", kSide, kSide);
    x += kSide + kGap;
  }
  svg += fmt::format("<text x=\"{}\" y=\"{}\" font-size=\"11\" fill=\"#555\">rows: pictures, columns: captions of one "
                     "batch; darker is more alike; the diagonal holds the true pairs</text></svg>",
                     kGap, kTop + kSide + 20);
  return svg;
}

}  // namespace clip_emoji
