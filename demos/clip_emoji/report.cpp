#include "report.h"

#include <cmath>
#include <cstdint>

#include <fmt/format.h>

#include "evaluation.h"
#include "plots.h"

namespace clip_emoji {

namespace {

constexpr double kMiB = 1024.0 * 1024.0;

constexpr const char* kStyle = R"(
body { font: 16px/1.55 system-ui, "DejaVu Sans", sans-serif; color: #1c1c1c; background: #fafafa; margin: 0; }
main { max-width: 860px; margin: 2.5rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin-bottom: .4rem; }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .5rem; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; margin: 1rem 0; }
th, td { text-align: right; padding: .35rem .5rem; border-bottom: 1px solid #ddd; white-space: nowrap; }
th { font-weight: 600; vertical-align: bottom; white-space: normal; }
th:first-child, td:first-child { text-align: left; }
figure { margin: .8rem 0; padding: .8rem; background: #fff; border: 1px solid #e2e2e2; border-radius: 6px; }
figure svg, figure img { display: block; width: 100%; height: auto; }
pre { white-space: pre-wrap; background: #fff; border: 1px solid #e2e2e2; border-left: 4px solid #d55e00;
  padding: .7rem .9rem; border-radius: 4px; font-size: .85rem; }
.swatch { display: inline-block; width: .75em; height: .75em; border-radius: 2px; margin-right: .45em; }
.quiet { color: #666; font-size: .88rem; }
@media (prefers-color-scheme: dark) {
  body { background: #17181a; color: #e6e6e6; }
  th, td { border-color: #3a3a3a; }
  pre { background: #222; border-color: #3a3a3a; border-left-color: #d55e00; }
  .quiet { color: #a5a5a5; }
}
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

std::string percent(double share) { return std::isfinite(share) ? fmt::format("{:.1f} %", 100 * share) : "–"; }

std::string difference(const std::optional<double>& value) { return value ? fmt::format("{:.1e}", *value) : "–"; }

std::string table(const Results& results) {
  std::string rows;
  for (const WayResult& way : results.ways) {
    rows += fmt::format(
        "<tr><td><span class=\"swatch\" style=\"background:{}\"></span>{}</td><td>{}</td><td>{}</td><td>{}</td>"
        "<td>{:.3f}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{:.1f}</td><td>{:.1f}</td><td>{:.0f}</td></tr>\n",
        color_of(way.name), escaped(way.name), way.batch, way.chunk ? std::to_string(*way.chunk) : "–",
        way.records.size(), way.records.back().loss, difference(way.max_relative_gradient_difference()),
        percent(way.recall_text_to_image.at(10)), percent(way.recall_image_to_text.at(10)),
        percent(way.linear_probe_accuracy), static_cast<double>(way.peak_bytes) / kMiB, way.seconds,
        way.pairs_per_second());
  }
  return fmt::format(
      "<table><thead><tr><th>way</th><th>batch</th><th>chunk</th><th>steps</th><th>last loss</th>"
      "<th>largest gradient difference</th><th>recall@10 text→image</th><th>recall@10 image→text</th>"
      "<th>linear probe</th><th>peak MiB</th><th>seconds</th><th>pairs/s</th></tr></thead><tbody>\n{}</tbody></table>\n"
      "<p class=\"quiet\">Recall among {} held-out pairs; chance is {} at 10. The probe tells the {} held-out pictures' "
      "Unicode groups; always naming the most frequent group is right for {}.</p>",
      rows, results.pairs_held_out, percent(results.chance(10)), results.pairs_held_out,
      percent(results.majority_class_accuracy));
}

std::string findings(const Results& results) {
  const auto cached = results.way("gradcache").max_relative_gradient_difference();
  const auto accumulated = results.way("accumulation").max_relative_gradient_difference();
  const bool equal = cached && *cached <= results.equality_bound();
  const bool apart = accumulated && *accumulated > kAccumulationBound;
  std::string text = fmt::format(
      "<p>A small CLIP was trained on {} pairs of emoji pictures and captions from the same initial weights, the same "
      "batches and the same dropout. Over the compared steps the cached step's gradient lay at most <b>{}</b> "
      "(relative) from the direct one, which is {} the bound of {:g}; plain accumulation's lay up to <b>{}</b> away{}.</p>",
      results.pairs_train, difference(cached), equal ? "within" : "<b>beyond</b>", results.equality_bound(),
      difference(accumulated), apart ? ": it is another gradient, that of the diagonal blocks alone" : "");
  const WayResult& large = results.way("gradcache_large");
  text += fmt::format("<p>The cached step at batch {} used at most {:.1f} MiB under a limit of {:.0f} MiB. ", large.batch,
                      static_cast<double>(large.peak_bytes) / kMiB,
                      static_cast<double>(results.memory_limit_bytes) / kMiB);
  text += results.direct_large_error.empty() ? "Direct training at that batch fitted under the limit as well.</p>"
                                             : "Direct training at that batch does not fit; it stops with:</p><pre>" +
                                                   escaped(results.direct_large_error) + "</pre>";
  return text;
}

std::string section(const std::string& title, const std::string& sentence, const std::string& figure) {
  return fmt::format("<h2>{}</h2>\n<p>{}</p>\n<figure>{}</figure>\n", title, sentence, figure);
}

}  // namespace

std::string escaped(const std::string& text) {
  std::string result;
  for (char c : text) {
    switch (c) {
      case '<': result += "&lt;"; break;
      case '>': result += "&gt;"; break;
      case '&': result += "&amp;"; break;
      case '"': result += "&quot;"; break;
      case '\'': result += "&#39;"; break;
      default: result += c;
    }
  }
  return result;
}

std::string report_html(const Results& results, const std::string& retrieval_png) {
  std::string body = "<h1>Contrastive training that loses no negative</h1>\n" + findings(results) + table(results);
  body += section("Which logits each way sees",
                  "The logits of one batch, as the directly trained model scores it. Direct training and the cached step "
                  "take the loss over all of them; accumulation never computes the hatched ones.",
                  logits_figure(results));
  body += section("Distance of the gradients",
                  fmt::format("Norm of the difference over the norm of the direct gradient, over all parameters, both at "
                              "the same weights and dropout, at each of the first {} steps.", kComparedSteps),
                  gradient_plot(results));
  body += section("Loss",
                  fmt::format("Thin: every step; thick: averaged. A batch of n has a loss of log n at chance ({:.2f} for "
                              "{}, {:.2f} for {}), so losses of different batches do not compare; retrieval does.",
                              std::log(static_cast<double>(results.way("direct").batch)), results.way("direct").batch,
                              std::log(static_cast<double>(results.way("gradcache_large").batch)),
                              results.way("gradcache_large").batch),
                  loss_plot(results));
  body += section("Memory", "Peak bytes of one step with weights and optimiser, measured without a limit.",
                  memory_plot(results));
  body += section("Retrieval", "Twelve held-out captions and the five held-out pictures that the cached model finds.",
                  fmt::format("<img alt=\"captions with the five best pictures\" src=\"data:image/png;base64,{}\"/>",
                              base64(retrieval_png)));
  body += fmt::format("<p class=\"quiet\">{}, seed {}, {} thread{}.</p>", results.dtype, results.seed, results.threads,
                      results.threads == 1 ? "" : "s");
  return "<!DOCTYPE html>\n<html xmlns=\"http://www.w3.org/1999/xhtml\" lang=\"en\"><head><meta charset=\"utf-8\"/>"
         "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>"
         "<title>Tapecache: clip_emoji</title><style>" +
         std::string(kStyle) + "</style></head><body><main>\n" + body + "</main></body></html>\n";
}

}  // namespace clip_emoji
