#include "plots.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <sstream>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <pugixml.hpp>

#include "gnuplot.h"
#include "tapecache/core/error.h"
#include "wording.h"

namespace clip_emoji {

namespace {

constexpr double kMiB = 1024.0 * 1024.0;
constexpr std::size_t kSmoothing = 15;  // steps averaged to a line
constexpr double kSmallest = 1e-17;     // stands in for 0, which has no place on a log axis

using Points = std::vector<std::pair<double, double>>;

/// Text between single quotes, with what gnuplot's enhanced mode would read as markup escaped.
std::string literal(std::string_view text) {
  std::string result = "'";
  for (const char c : text) {
    if (std::string_view("_^@&{}~\\").find(c) != std::string_view::npos) result += '\\';
    result += c;
    if (c == '\'') result += c;
  }
  return result + "'";
}

std::string prologue(int height) {
  // A user's ~/.gnuplot has been read by now.
  return fmt::format(
      "reset\nset encoding utf8\nset terminal svg size 820,{} font 'DejaVu Sans,13' enhanced "
      "background '#ffffff'\nset border 3 lc rgb '#666666'\nset tics nomirror out scale 0.6\n"
      "set format '%g'\nset grid back lc rgb '#e4e4e4' lt 1 lw 1\nset key Left reverse samplen 2.5\n",
      height);
}

std::string title(std::string_view text) { return fmt::format("set title {} font ',15'\n", literal(text)); }

/// A data block; a point that is not finite breaks the line.
std::string data_block(const std::string& name, const Points& points) {
  std::string text = fmt::format("${} << EOD\n", name);
  for (const auto& [x, y] : points) text += std::isfinite(y) ? fmt::format("{:.9g} {:.9g}\n", x, y) : "\n";
  return text + "EOD\n";
}

Points loss_points(const WayResult& way, std::size_t window) {
  Points points;
  const std::size_t n = way.records.size(), reach = std::min(window, n / 8) / 2;
  for (std::size_t i = 0; i < n; ++i) {
    const std::size_t first = i > reach ? i - reach : 0, last = std::min(n - 1, i + reach);
    double sum = 0;
    for (std::size_t k = first; k <= last; ++k) sum += way.records[k].loss;
    points.emplace_back(static_cast<double>(i + 1), sum / static_cast<double>(last - first + 1));
  }
  return points;
}

/// One panel of the loss figure: ways whose losses are taken over the same number of pairs.
struct Panel {
  std::string caption;
  double pairs;
  std::vector<const WayResult*> ways;
};

/// 1, 2 or 5 times a power of ten, two to five of them up to `end`.
double tick_step(double end) {
  const double power = std::pow(10, std::floor(std::log10(end)));
  return power * (end / power < 2 ? 0.5 : end / power < 4 ? 1 : 2);
}

std::string panel_script(const Panel& panel, double top) {
  const double ceiling = std::log(panel.pairs);
  double steps = 1;
  std::vector<std::string> raw, lines;
  for (const WayResult* way : panel.ways) {
    steps = std::max(steps, static_cast<double>(way->records.size()));
    const bool dashed = way != panel.ways.front();
    const char* color = color_of(way->name);
    raw.push_back(fmt::format("${}_raw with lines lw 1 lc rgb '#b0{}' notitle", way->name, color + 1));
    lines.push_back(fmt::format("${} with {} lw {} {} lc rgb '{}' title {}", way->name,
                                way->records.size() < 20 ? "linespoints pt 7 ps 0.5" : "lines", dashed ? 2 : 4,
                                dashed ? "dt (7,5)" : "dt 1", color, literal(way->name)));
  }
  raw.insert(raw.end(), lines.begin(), lines.end());
  // The curve falls from the ceiling: a high one leaves room below, a low one above.
  const char* key = ceiling > 0.6 * top ? "bottom left" : "top right";
  return fmt::format(
      "set title {} font ',13'\nset key {}\nset xrange [0:{}]\n{}set label 1 {} at graph 0.98,first {:.6g} right "
      "offset 0,0.6 font ',11' tc rgb '#444444'\nplot {:.9g} with lines dt (2,3) lw 1.5 lc rgb '#444444' "
      "notitle, {}\n",
      literal(panel.caption), key, steps, fmt::format("set xtics {}\n", std::max(1.0, tick_step(steps))),
      literal(fmt::format("guessing: log {} = {:.2f}", panel.pairs, ceiling)), ceiling, ceiling, fmt::join(raw, ", "));
}

/// The largest difference of the losses of two ways at the same step.
double largest_gap(const WayResult& a, const WayResult& b, std::size_t steps) {
  double gap = 0;
  for (std::size_t i = 0; i < steps; ++i) {
    const double here = std::abs(a.records[i].loss - b.records[i].loss);
    if (!(here <= gap)) gap = here;
  }
  return gap;
}

std::int64_t largest_fitting(const Results& results, std::size_t MemoryPoint::*bytes) {
  std::int64_t batch = 0;
  for (const MemoryPoint& point : results.memory) {
    if (point.*bytes <= results.memory_limit_bytes) batch = std::max(batch, point.batch);
  }
  return batch;
}

std::string fits(std::int64_t batch) {
  return batch > 0 ? "fits up to batch " + grouped(batch) : "fits at none of these batches";
}

}  // namespace

const char* color_of(std::string_view way) {
  if (way == "direct") return "#56B4E9";
  if (way == "gradcache") return "#0072B2";
  if (way == "accumulation") return "#D55E00";
  return "#009E73";
}

void require_gnuplot() { run_gnuplot("print 1\n"); }

std::string loss_plot(const Results& results) {
  const WayResult &direct = results.way("direct"), &cached = results.way("gradcache");
  const WayResult &accumulated = results.way("accumulation"), &large = results.way("gradcache_large");
  const std::int64_t chunk = accumulated.chunk.value_or(accumulated.batch);
  const Panel panels[] = {
      {fmt::format("one loss over {} pairs", direct.batch), static_cast<double>(direct.batch), {&direct, &cached}},
      {fmt::format("losses over {} pairs each", chunk), static_cast<double>(chunk), {&accumulated}},
      {fmt::format("one loss over {} pairs", grouped(large.batch)), static_cast<double>(large.batch), {&large}}};

  const std::size_t steps = std::min(direct.records.size(), cached.records.size());
  const std::string message =
      fmt::format("direct and gradcache: losses at most {} apart in {} steps",
                  scientific(largest_gap(direct, cached, steps)), grouped(static_cast<std::int64_t>(steps)));
  double top = 0;
  for (const Panel& panel : panels) top = std::max(top, std::log(panel.pairs));
  std::string script = prologue(410);
  for (const WayResult& way : results.ways) {
    script += data_block(way.name + "_raw", loss_points(way, 0)) + data_block(way.name, loss_points(way, kSmoothing));
    for (const StepRecord& record : way.records) {
      if (std::isfinite(record.loss)) top = std::max(top, record.loss);
    }
  }
  top *= 1.1;
  script += fmt::format(
      "set multiplot layout 1,3 margins 0.075,0.985,0.165,0.8 spacing 0.04,0 title {} font ',15'\n"
      "set yrange [0:{:.3g}]\nset xlabel 'step'\nset ylabel 'training loss, nats' offset 1,0\n"
      "set ytics 1\n",
      literal(message), top);
  for (const Panel& panel : panels) script += panel_script(panel, top) + "unset ylabel\nset format y ''\n";
  return embedded_svg(run_gnuplot(script + "unset multiplot\n"), "loss-", message);
}

std::string gradient_plot(const Results& results) {
  const double bound = results.equality_bound();
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double cached = results.way("gradcache").max_relative_gradient_difference().value_or(nan);
  const double accumulated = results.way("accumulation").max_relative_gradient_difference().value_or(nan);
  const std::string message =
      fmt::format("gradcache: {} gradient, at most {} off; accumulation: up to {} off",
                  cached <= bound ? "the direct" : "another", scientific(cached), scientific(accumulated));
  std::string script = prologue(380) + title(message) +
                       "set xlabel 'step'\nset ylabel '‖g − g_{direct}‖ / ‖g_{direct}‖' offset 0.5,0\n"
                       "set logscale y\nset format y '10^{%T}'\nset key right center\n";
  std::vector<std::string> plots;
  double smallest = bound, largest = 1, last = 1;
  for (const WayResult& way : results.ways) {
    Points points;
    bool exact = false;
    for (const StepRecord& record : way.records) {
      if (!record.relative_gradient_difference) continue;
      exact = exact || *record.relative_gradient_difference == 0;
      const double value = std::max(*record.relative_gradient_difference, kSmallest);
      last = static_cast<double>(record.step + 1);
      points.emplace_back(last, value);
      if (!std::isfinite(value)) continue;
      smallest = std::min(smallest, value);
      largest = std::max(largest, value);
    }
    if (points.empty()) continue;
    script += data_block(way.name, points);
    plots.push_back(fmt::format("${} with linespoints pt 7 ps 0.7 lw 2 lc rgb '{}' title {}", way.name,
                                color_of(way.name), literal(way.name + (exact ? " (0 drawn as 10⁻¹⁷)" : ""))));
  }
  plots.push_back(fmt::format("{:g} with lines dt (5,4) lw 1.5 lc rgb '#222222' title {}", bound,
                              literal("bound " + scientific(bound))));
  script += fmt::format("set xrange [0:{}]\nset yrange [{:g}:{:g}]\n", last + 1,
                        std::pow(10, std::floor(std::log10(smallest)) - 1),
                        std::pow(10, std::ceil(std::log10(largest)) + 0.5));
  return embedded_svg(run_gnuplot(script + fmt::format("plot {}\n", fmt::join(plots, ", "))), "gradient-", message);
}

std::string memory_plot(const Results& results) {
  if (results.memory.empty()) throw tapecache::ValueError("memory_plot: no memory was measured");
  Points direct, cached;
  std::vector<std::string> ticks;
  const double limit = static_cast<double>(results.memory_limit_bytes) / kMiB;
  double low = limit, high = limit;
  for (const MemoryPoint& point : results.memory) {
    const double batch = static_cast<double>(point.batch);
    direct.emplace_back(batch, static_cast<double>(point.direct) / kMiB);
    cached.emplace_back(batch, static_cast<double>(point.cached) / kMiB);
    low = std::min({low, direct.back().second, cached.back().second});
    high = std::max({high, direct.back().second, cached.back().second});
    ticks.push_back(fmt::format("{} {}", literal(grouped(point.batch)), point.batch));
  }
  const std::string message = fmt::format("Within {}, direct {}, cached {}", mebibytes(results.memory_limit_bytes),
                                          fits(largest_fitting(results, &MemoryPoint::direct)),
                                          fits(largest_fitting(results, &MemoryPoint::cached)));
  const std::string script =
      prologue(380) + title(message) +
      fmt::format(
          "set xlabel 'batch, pairs'\nset ylabel 'peak of one step, MiB' offset 0.5,0\nset logscale xy 2\n"
          "set xtics ({})\nset xrange [{}:{}]\nset yrange [{:.6g}:{:.6g}]\nset key top left\n"
          "set object 1 rect from graph 0,first {:.6g} to graph 1,1 fc rgb '#f0f0f0' fs solid noborder behind\n"
          "set label 1 {} at graph 0.985,first {:.6g} right offset 0,-0.7 font ',12' tc rgb '#222222'\n",
          fmt::join(ticks, ", "), direct.front().first / 1.25, direct.back().first * 1.25, low / 1.5, high * 1.6, limit,
          literal("limit " + mebibytes(results.memory_limit_bytes)), limit) +
      data_block("direct", direct) + data_block("cached", cached) +
      fmt::format(
          "plot {:.6g} with lines dt (5,4) lw 1.5 lc rgb '#222222' notitle, $direct with linespoints pt 7 ps 0.8 "
          "lw 2.5 lc rgb '{}' title 'direct', $cached with linespoints pt 7 ps 0.8 lw 2.5 lc rgb '{}' title {}\n",
          limit, color_of("direct"), color_of("gradcache"),
          literal(fmt::format("cached, chunk {}", results.way("gradcache").chunk.value_or(0))));
  return embedded_svg(run_gnuplot(script), "memory-", message);
}

std::string embedded_svg(const std::string& svg, const std::string& prefix, const std::string& title) {
  pugi::xml_document document;
  const auto parsed = document.load_buffer(svg.data(), svg.size(), pugi::parse_default | pugi::parse_ws_pcdata);
  pugi::xml_node root = document.child("svg");
  if (!parsed || !root) throw tapecache::Error("embedded_svg: what gnuplot gave is no SVG");
  const auto elements = root.select_nodes("descendant-or-self::*");
  std::set<std::string> wanted;
  for (const auto& element : elements) {
    for (pugi::xml_attribute attribute : element.node().attributes()) {
      std::string value = attribute.value();
      if (std::string_view(attribute.name()) == "xlink:href") attribute.set_name("href");
      const bool link = std::string_view(attribute.name()) == "href" && value.starts_with('#');
      std::size_t at = link ? 1 : value.find("url(#");
      if (at == std::string::npos) continue;
      if (!link) at += 5;
      wanted.insert(link ? value.substr(at) : value.substr(at, value.find(')', at) - at));
      attribute.set_value(value.insert(at, prefix).c_str());
    }
  }
  for (const auto& element : elements) {
    pugi::xml_node node = element.node();
    node.remove_attribute("font-family");
    const std::string id = node.attribute("id").value();
    if (wanted.contains(id)) {
      node.attribute("id").set_value((prefix + id).c_str());
    } else {
      node.remove_attribute("id");
    }
  }
  root.remove_attribute("xmlns:xlink");
  root.remove_attribute("width");
  root.remove_attribute("height");
  root.append_attribute("role").set_value("img");
  root.remove_child("desc");
  root.child("title").text().set(title.c_str());
  std::ostringstream out;
  root.print(out, "", pugi::format_raw);
  return out.str();
}

}  // namespace clip_emoji
