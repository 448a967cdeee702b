#include "report.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "evaluation.h"
#include "plots.h"
#include "wording.h"

namespace clip_emoji {

namespace {

constexpr const char* kStyle = R"(
:root { color-scheme: light dark; --ink: #1c1c1c; --quiet: #5c5c5c; --page: #fafaf8; --line: #dcdcd8; --panel: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e6; --quiet: #a8a8a4; --page: #17181a; --line: #3c3d40; --panel: #202124; }
}
body { font: 16px/1.55 system-ui, "DejaVu Sans", sans-serif; color: var(--ink); background: var(--page); margin: 0; }
main { max-width: 900px; margin: 2.5rem auto 4rem; padding: 0 1.2rem; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0 0 .8rem; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .4rem; }
p { max-width: 46rem; margin: .6rem 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; margin: 1rem 0; }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; }
tbody th { text-align: left; font-weight: 400; }
tr.group th { font-weight: 600; padding-top: .9rem; }
td.quiet, .quiet { color: var(--quiet); }
.quiet { font-size: .9rem; }
table.settings { width: auto; }
table.settings td { text-align: left; }
figure { margin: .8rem 0; padding: .8rem; background: #fff; border: 1px solid var(--line); border-radius: 6px;
  overflow-x: auto; }
figure svg, figure img { display: block; width: 100%; min-width: 640px; height: auto; }
figure svg { font-family: system-ui, "DejaVu Sans", Verdana, sans-serif; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--panel); border: 1px solid var(--line);
  border-left: 4px solid #d55e00; padding: .7rem .9rem; border-radius: 4px; font-size: .85rem; }
.swatch { display: inline-block; width: .7em; height: .7em; border-radius: 2px; margin-right: .45em; }
)";

std::string base64(const std::string& bytes) {
  static constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t word = 0;
    for (std::size_t k = 0; k < 3; ++k) {
      word = word << 8 | (i + k < bytes.size() ? static_cast<unsigned char>(bytes[i + k]) : 0u);
    }
    for (std::size_t k = 0; k < 4; ++k) {
      text += i + k > bytes.size() ? '=' : kDigits[word >> (18 - 6 * k) & 63];
    }
  }
  return text;
}

std::string difference(const std::optional<double>& value) { return value ? scientific(*value) : "–"; }

/// Where share `a` of n samples lies beside share `b` of as many; two standard errors count as a difference.
const char* beside(double a, double b, std::int64_t n) {
  const double error = std::sqrt((a * (1 - a) + b * (1 - b)) / static_cast<double>(n));
  if (!(std::abs(a - b) > 2 * error)) return "within the sampling error of";
  return a > b ? "above" : "below";
}

std::string introduction(const Results& results) {
  const WayResult &direct = results.way("direct"), &cached = results.way("gradcache");
  const WayResult &accumulated = results.way("accumulation"), &large = results.way("gradcache_large");
  return fmt::format(
             "<p>A small CLIP was trained on {} pairs of an emoji's picture and its caption, four times from the same "
             "initial "
             "weights: directly in batches of {}; with gradient caching (<i>gradcache</i>), the same batches in chunks "
             "of {}; "
             "with plain gradient accumulation, the same chunks with a loss of their own; and with gradient caching in "
             "batches "
             "of {}. {} further pairs, whose pictures no training saw, were kept for measuring.</p>\n",
             grouped(results.pairs_train), direct.batch, cached.chunk.value_or(cached.batch), grouped(large.batch),
             grouped(results.pairs_held_out)) +
         [&] {
           const auto near = cached.max_relative_gradient_difference();
           const auto far = accumulated.max_relative_gradient_difference();
           if (!near || !far) return std::string("<p>No gradients were compared in this run.</p>\n");
           const bool equal = *near <= results.equality_bound();
           return fmt::format(
               "<p>At the same weights, <b>gradcache's gradient lay at most {} from the direct one</b> relative to its "
               "norm, {} the bound of {}. Accumulation's lay up to <b>{}</b> away: it is {}.</p>\n",
               scientific(*near), equal ? "within" : "<b>beyond</b>", scientific(results.equality_bound()),
               scientific(*far), *far > kAccumulationBound ? "another gradient" : "close to the direct gradient too");
         }();
}

std::string findings(const Results& results) {
  const WayResult &direct = results.way("direct"), &large = results.way("gradcache_large");
  const std::int64_t n = results.pairs_held_out;
  const auto recall = [](const WayResult& way) { return way.recall_text_to_image.at(10); };
  const auto against_direct = [&](const char* name) {
    const WayResult& way = results.way(name);
    return fmt::format("{} {}, {} direct", name, percent(recall(way)), beside(recall(way), recall(direct), n));
  };
  return fmt::format(
      "<p>At batch {}, gradcache needed at most {} under a limit of {}; direct training at that batch {}. Of the "
      "held-out captions, direct training finds the right picture among its ten best for {} (chance: {}); {}; {}; "
      "{}.</p>\n",
      grouped(large.batch), mebibytes(large.peak_bytes), mebibytes(results.memory_limit_bytes),
      results.direct_large_error.empty() ? "went through as well" : "was refused for want of memory",
      percent(recall(direct)), percent(results.chance(10)), against_direct("gradcache"), against_direct("accumulation"),
      against_direct("gradcache_large"));
}

/// Ways are columns: four of them fit on any page, their many measures do not.
std::string table(const Results& results) {
  std::string html = "<div class=\"wide\"><table><thead><tr><th></th>";
  for (const WayResult& way : results.ways) {
    html += fmt::format("<th scope=\"col\"><span class=\"swatch\" style=\"background:{}\"></span>{}</th>",
                        color_of(way.name), escaped(way.name));
  }
  html += "<th scope=\"col\">by chance</th></tr></thead><tbody>\n";
  const auto group = [&](const char* name) {
    html += fmt::format("<tr class=\"group\"><th colspan=\"{}\">{}</th></tr>\n", results.ways.size() + 2, name);
  };
  const auto row = [&](const std::string& name, const std::function<std::string(const WayResult&)>& cell,
                       const std::string& chance = "") {
    html += "<tr><th scope=\"row\">" + name + "</th>";
    for (const WayResult& way : results.ways) html += "<td>" + cell(way) + "</td>";
    html += "<td class=\"quiet\">" + chance + "</td></tr>\n";
  };

  group("Training");
  row("batch", [](const WayResult& w) { return grouped(w.batch); });
  row("chunk", [](const WayResult& w) { return w.chunk ? grouped(*w.chunk) : "–"; });
  row("steps", [](const WayResult& w) { return grouped(static_cast<std::int64_t>(w.records.size())); });
  row("loss, first step",
      [](const WayResult& w) { return w.records.empty() ? "–" : fmt::format("{:.3f}", w.records.front().loss); });
  row("loss, last step",
      [](const WayResult& w) { return w.records.empty() ? "–" : fmt::format("{:.3f}", w.records.back().loss); });
  row("largest gradient difference",
      [](const WayResult& w) { return difference(w.max_relative_gradient_difference()); });
  group("Held-out pairs");
  for (const int k : kRecallAt) {
    row(
        fmt::format("caption finds picture, recall@{}", k),
        [k](const WayResult& w) { return percent(w.recall_text_to_image.at(k)); }, percent(results.chance(k)));
  }
  for (const int k : kRecallAt) {
    row(
        fmt::format("picture finds caption, recall@{}", k),
        [k](const WayResult& w) { return percent(w.recall_image_to_text.at(k)); }, percent(results.chance(k)));
  }
  row(
      "linear probe, Unicode group", [](const WayResult& w) { return percent(w.linear_probe_accuracy); },
      percent(results.majority_class_accuracy));
  group("Cost");
  row("peak memory", [](const WayResult& w) { return mebibytes(w.peak_bytes); });
  row("training time", [](const WayResult& w) { return duration(w.seconds); });
  row("pairs per second", [](const WayResult& w) { return fmt::format("{:.0f}", w.pairs_per_second()); });
  return html +
         "</tbody></table></div>\n<p class=\"quiet\">Losses over different numbers of pairs do not compare: guessing "
         "among n has a loss of log n. Chance for the probe is always naming the most frequent group.</p>\n";
}

std::string section(const std::string& title, const std::string& sentence, const std::string& figure) {
  return fmt::format("<h2>{}</h2>\n<p>{}</p>\n<figure>{}</figure>\n", title, sentence, figure);
}

std::string settings(const Results& results) {
  std::vector<std::pair<std::string, std::string>> rows = {
      {"pairs to train with", grouped(results.pairs_train)}, {"pairs held out", grouped(results.pairs_held_out)},
      {"type of numbers", escaped(results.dtype)},           {"seed", std::to_string(results.seed)},
      {"threads", std::to_string(results.threads)},          {"memory limit", mebibytes(results.memory_limit_bytes)}};
  for (const WayResult& way : results.ways) {
    double rate = 0;
    for (const StepRecord& record : way.records) rate = std::max(rate, record.learning_rate);
    rows.emplace_back("highest learning rate, " + escaped(way.name), fmt::format("{:g}", rate));
  }
  std::string html = "<h2>Settings</h2>\n<table class=\"settings\"><tbody>\n";
  for (const auto& [name, value] : rows) {
    html += fmt::format("<tr><th scope=\"row\">{}</th><td>{}</td></tr>\n", name, value);
  }
  return html + "</tbody></table>\n";
}

}  // namespace

std::string escaped(const std::string& text) {
  std::string result;
  for (const char c : text) {
    switch (c) {
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '&':
        result += "&amp;";
        break;
      case '"':
        result += "&quot;";
        break;
      case '\'':
        result += "&#39;";
        break;
      default:
        if (static_cast<unsigned char>(c) >= 0x20 || c == '\t' || c == '\n') result += c;
    }
  }
  return result;
}

std::string report_html(const Results& results, const std::string& retrieval_png) {
  const WayResult &direct = results.way("direct"), &large = results.way("gradcache_large");
  std::string body = "<h1>Contrastive training that loses no negative</h1>\n" + introduction(results) +
                     findings(results) + table(results);
  body +=
      section("Which logits each way sees",
              fmt::format("The logits of one batch of {}, as the directly trained model scores it; true pairs lie on "
                          "the diagonal. Accumulation never computes the hatched ones.",
                          results.logits_size),
              logits_figure(results));
  body += section(
      "Distance of the gradients",
      fmt::format(
          "Norm of the difference over the norm of the direct gradient, over all parameters, at the "
          "same weights, batch and dropout, in the first {} steps.",
          std::min<std::int64_t>(kComparedSteps, static_cast<std::int64_t>(results.way("gradcache").records.size()))),
      gradient_plot(results));
  body +=
      section("Loss",
              fmt::format("Pale: every step; strong: averaged. The dotted lines are what guessing costs. A loss over "
                          "fewer pairs is lower because its task is easier: compare direct with gradcache (both over "
                          "{}), and the rest by retrieval.",
                          direct.batch),
              loss_plot(results));
  body += section("Memory",
                  "Most bytes in use during one step, weights and optimiser among them, measured without a limit.",
                  memory_plot(results));
  if (!results.direct_large_error.empty()) {
    body +=
        fmt::format("<p>Under the limit, direct training at batch {} stops with this OutOfMemory:</p>\n<pre>{}</pre>\n",
                    grouped(large.batch), escaped(results.direct_large_error));
  }
  body +=
      section("Retrieval",
              fmt::format("Held-out captions and the pictures, of all {} held-out ones, that the model trained with "
                          "gradcache puts first, with their similarity.",
                          grouped(results.pairs_held_out)),
              fmt::format("<img alt=\"Held-out captions, each with its emoji and the best pictures found for it\" "
                          "src=\"data:image/png;base64,{}\"/>",
                          base64(retrieval_png)));
  body += settings(results);
  return "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>"
         "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>"
         "<title>Tapecache: clip_emoji</title><style>" +
         std::string(kStyle) + "</style></head><body><main>\n" + body + "</main></body></html>\n";
}

}  // namespace clip_emoji
