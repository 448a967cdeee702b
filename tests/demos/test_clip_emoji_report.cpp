#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>
#include <pugixml.hpp>

#include "../../demos/clip_emoji/plots.h"
#include "../../demos/clip_emoji/report.h"
#include "../../demos/clip_emoji/results.h"
#include "../../demos/clip_emoji/retrieval.h"
#include "compare.h"
#include "folder.h"
#include "tapecache/core/error.h"

using namespace clip_emoji;
using tapecache::testing::contents;
using tapecache::testing::Folder;
using Json = nlohmann::json;

namespace {

bool starts(const char* program) {
  return std::system((std::string(program) + " --version >/dev/null 2>&1").c_str()) == 0;
}

boost::test_tools::assertion_result has_gnuplot(boost::unit_test::test_unit_id) { return starts("gnuplot"); }
const boost::unit_test::precondition kNeedsGnuplot{has_gnuplot};

boost::test_tools::assertion_result has_font(boost::unit_test::test_unit_id) {
  return std::filesystem::exists("/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf");
}
const boost::unit_test::precondition kNeedsFont{has_font};

WayResult way(const char* name, std::int64_t batch, std::optional<std::int64_t> chunk,
              std::optional<double> difference) {
  WayResult result;
  result.name = name;
  result.batch = batch;
  result.chunk = chunk;
  for (std::int64_t step = 0; step < 30; ++step) {
    StepRecord record{step,         4.0 / (1.0 + 0.1 * static_cast<double>(step)), 1e-3, 0.5,
                      std::nullopt, 0.25 * static_cast<double>(step + 1)};
    if (step < 5 && difference) record.relative_gradient_difference = *difference;
    result.records.push_back(record);
  }
  result.recall_text_to_image = {{1, 0.125}, {5, 0.25}, {10, 0.4375}};
  result.recall_image_to_text = {{1, 0.0625}, {5, 0.1875}, {10, 0.375}};
  result.linear_probe_accuracy = 0.625;
  result.peak_bytes = 37u << 20;
  result.seconds = 7.5;
  return result;
}

Results plausible() {
  Results results;
  results.ways = {way("direct", 64, std::nullopt, std::nullopt), way("gradcache", 64, 16, 2.5e-7),
                  way("accumulation", 64, 16, 0.875), way("gradcache_large", 1024, 16, std::nullopt)};
  results.pairs_train = 3328;
  results.pairs_held_out = 400;
  results.direct_large_error = "matmul: <a> & \"b\" 'c'";
  results.majority_class_accuracy = 0.375;
  results.memory_limit_bytes = 128u << 20;
  results.dtype = "f32";
  results.seed = 3;
  results.threads = 2;
  for (const std::size_t batch : {64u, 256u, 1024u}) {
    results.memory.push_back({static_cast<std::int64_t>(batch), batch << 20, (30u << 20) + (batch << 14)});
  }
  results.logits_size = 32;
  for (int i = 0; i < 32 * 32; ++i) results.logits.push_back(i % 33 == 0 ? 12.0f : static_cast<float>(i % 7));
  return results;
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// All text below a node.
std::string text_of(const pugi::xml_node& node) {
  std::string text;
  for (const auto& part : node.select_nodes(".//text()")) text += std::string(part.node().value()) + " ";
  return text;
}

pugi::xml_document parsed(const std::string& xml) {
  pugi::xml_document document;
  const auto result = document.load_buffer(xml.data(), xml.size(), pugi::parse_default);
  BOOST_REQUIRE_MESSAGE(result, result.description() << " at " << result.offset);
  return document;
}

/// No gnuplot is on the path while this lives.
class EmptyPath {
 public:
  EmptyPath() : path_(std::getenv("PATH")) { setenv("PATH", "/nonexistent", 1); }
  EmptyPath(const EmptyPath&) = delete;
  EmptyPath& operator=(const EmptyPath&) = delete;
  ~EmptyPath() { setenv("PATH", path_.c_str(), 1); }

 private:
  std::string path_;
};

}  // namespace

BOOST_AUTO_TEST_SUITE(report)

BOOST_AUTO_TEST_CASE(summary_has_every_key) {
  const Json summary = Json::parse(summary_json(plausible()));
  for (const char* name : {"direct", "gradcache", "accumulation", "gradcache_large"}) {
    const Json& result = summary.at(name);
    BOOST_TEST(result.at("batch").is_number_integer());
    BOOST_TEST(result.at("steps") == 30);
    BOOST_TEST(result.at("loss_first") == 4.0);
    BOOST_TEST((result.at("loss_last").get<double>() < 1.1));
    BOOST_TEST(result.at("linear_probe_accuracy") == 0.625);
    BOOST_TEST(result.at("peak_bytes") == (37u << 20));
    BOOST_TEST(result.at("seconds") == 7.5);
    BOOST_TEST(result.at("pairs_per_second").get<double>() == result.at("batch").get<double>() * 30 / 7.5);
    for (const char* direction : {"recall_text_to_image", "recall_image_to_text"}) {
      BOOST_TEST(result.at(direction).size() == 3u);
      for (const char* k : {"1", "5", "10"}) BOOST_TEST(result.at(direction).at(k).is_number_float());
    }
  }
  BOOST_TEST(summary.at("direct").at("chunk").is_null());
  BOOST_TEST(summary.at("gradcache").at("chunk") == 16);
  BOOST_TEST(summary.at("direct").at("max_rel_grad_diff").is_null());
  BOOST_TEST(summary.at("gradcache").at("max_rel_grad_diff") == 2.5e-7);
  BOOST_TEST(summary.at("gradcache_large").at("max_rel_grad_diff").is_null());
  BOOST_TEST(summary.at("recall_chance").at("10") == 0.025);
  BOOST_TEST(summary.at("direct_large_error") == "matmul: <a> & \"b\" 'c'");
  for (const char* key : {"pairs_train", "pairs_held_out", "memory_limit_bytes", "seed", "threads"}) {
    BOOST_TEST(summary.at(key).is_number_integer(), key);
  }
  BOOST_TEST(summary.at("majority_class_accuracy") == 0.375);
  BOOST_TEST(summary.at("dtype") == "f32");
}

BOOST_AUTO_TEST_CASE(summary_survives_odd_numbers_and_bytes) {
  Results results = plausible();
  results.ways[1].records[2].relative_gradient_difference = tapecache::testing::kNaN;
  results.ways[2].records.clear();
  results.direct_large_error = "not UTF-8: \xFF";
  const Json summary = Json::parse(summary_json(results));
  BOOST_TEST(!summary.at("gradcache").at("max_rel_grad_diff").is_number());
  BOOST_TEST(!summary.at("gradcache").at("max_rel_grad_diff").is_null());
  BOOST_TEST(!summary.at("accumulation").at("loss_first").is_number());
}

BOOST_AUTO_TEST_CASE(claims_fail_on_nan) {
  Results results = plausible();
  for (const auto& [claim, holds] : check_claims(results)) BOOST_TEST(holds, claim);
  results.ways[1].records[4].relative_gradient_difference = tapecache::testing::kNaN;
  results.ways[2].records[4].relative_gradient_difference = tapecache::testing::kNaN;
  results.ways[3].peak_bytes = results.memory_limit_bytes + 1;
  for (const auto& [claim, holds] : check_claims(results)) BOOST_TEST(!holds, claim);
}

BOOST_AUTO_TEST_CASE(metrics_appear_whole_or_not_at_all) {
  const Folder folder;
  StepRecord record{7, 2.5, 1e-3, 0.5, std::nullopt, 1.25};
  {
    MetricsLog log(folder / "metrics.jsonl");
    log.append("direct", record);
    BOOST_TEST(!std::filesystem::exists(folder / "metrics.jsonl"));
  }
  BOOST_TEST(folder.entries() == 0);

  MetricsLog log(folder / "metrics.jsonl");
  log.append("direct", record);
  record.loss = tapecache::testing::kNaN;
  record.gradient_norm = std::numeric_limits<double>::infinity();
  record.relative_gradient_difference = tapecache::testing::kNaN;
  log.append("gradcache", record);
  log.finish();
  BOOST_TEST(folder.entries() == 1);

  std::istringstream lines(contents(folder / "metrics.jsonl"));
  std::string line;
  std::getline(lines, line);
  const Json first = Json::parse(line);
  BOOST_TEST(first.at("way") == "direct");
  BOOST_TEST(first.at("step") == 7);
  BOOST_TEST(first.at("loss") == 2.5);
  BOOST_TEST(first.at("learning_rate") == 1e-3);
  BOOST_TEST(first.at("seconds") == 1.25);
  BOOST_TEST(first.at("rel_grad_diff").is_null());
  std::getline(lines, line);
  const Json second = Json::parse(line);
  for (const char* key : {"loss", "gradient_norm", "rel_grad_diff"}) BOOST_TEST(!second.at(key).is_number(), key);
  BOOST_TEST(!std::getline(lines, line));

  BOOST_CHECK_THROW(MetricsLog("/proc/nowhere/metrics.jsonl"), tapecache::FileError);
}

BOOST_AUTO_TEST_CASE(plots_contain_the_series, *kNeedsGnuplot) {
  const Results results = plausible();
  const std::string loss = loss_plot(results), gradient = gradient_plot(results), memory = memory_plot(results);
  const std::string loss_text = text_of(parsed(loss)), gradient_text = text_of(parsed(gradient));
  const std::string memory_text = text_of(parsed(memory)), logits_text = text_of(parsed(logits_figure(results)));
  for (const WayResult& result : results.ways) BOOST_TEST(contains(loss_text, result.name), result.name);
  for (const char* name : {"gradcache", "accumulation", "bound"}) BOOST_TEST(contains(gradient_text, name), name);
  for (const char* name : {"direct", "cached", "limit"}) BOOST_TEST(contains(memory_text, name), name);
  for (const char* name : {"direct", "gradcache", "accumulation"}) BOOST_TEST(contains(logits_text, name), name);
}

BOOST_AUTO_TEST_CASE(plots_take_zero_and_nan, *kNeedsGnuplot) {
  Results results = plausible();
  for (StepRecord& record : results.ways[1].records) {
    if (record.relative_gradient_difference) record.relative_gradient_difference = 0.0;
  }
  results.ways[2].records[1].relative_gradient_difference = tapecache::testing::kNaN;
  results.ways[2].records[1].loss = tapecache::testing::kNaN;
  for (WayResult& result : results.ways) result.records.resize(3);
  for (const std::string& svg : {loss_plot(results), gradient_plot(results)}) BOOST_TEST(parsed(svg).child("svg"));
}

BOOST_AUTO_TEST_CASE(a_missing_gnuplot_is_named) {
  const EmptyPath empty;
  BOOST_CHECK_EXCEPTION(require_gnuplot(), tapecache::Error, [](const tapecache::Error& e) {
    return contains(e.what(), "gnuplot") && contains(e.what(), "gnuplot-nox");
  });
}

BOOST_AUTO_TEST_CASE(report_is_one_well_formed_page, *kNeedsGnuplot) {
  const std::string html = report_html(plausible(), std::string("\x89PNG\r\n\x1a\n\0x", 10));
  const pugi::xml_document document = parsed(html);
  std::set<std::string> ids, references;
  for (const auto& found : document.select_nodes("//@*")) {
    const std::string name = found.attribute().name(), value = found.attribute().value();
    if (name == "id") BOOST_TEST(ids.insert(value).second, "id " << value << " appears twice");
    if (name == "href" || name == "xlink:href") references.insert(value);
    if (name == "src") BOOST_TEST(value.starts_with("data:image/png;base64,"));
    if (const std::size_t at = value.find("url("); at != std::string::npos) {
      references.insert(value.substr(at + 4, value.find(')', at) - at - 4));
    }
  }
  for (const std::string& reference : references) {
    BOOST_TEST((reference.starts_with('#') && ids.contains(reference.substr(1))), reference << " leads nowhere");
  }
  for (const char* outside : {"src=\"http", "href=\"http", "url(http", "@import", "<script"}) {
    BOOST_TEST(!contains(html, outside), outside);
  }
  BOOST_TEST(document.select_nodes("//svg").size() == 4u);
  BOOST_TEST(document.select_nodes("//img").size() == 1u);
  BOOST_TEST(contains(html, "base64,iVBORw0KGgoAeA=="));

  const std::string text = text_of(document);
  for (const char* number : {"43.8", "37.5", "62.5", "2.5"}) BOOST_TEST(contains(text, number), number);
  BOOST_TEST(contains(html, "matmul: &lt;a&gt; &amp; &quot;b&quot; &#39;c&#39;"));
  BOOST_TEST(!contains(html, "<a>"));
}

BOOST_AUTO_TEST_CASE(report_follows_the_data, *kNeedsGnuplot) {
  Results results = plausible();
  const std::string proved = report_html(results, "");
  for (StepRecord& record : results.ways[1].records) record.relative_gradient_difference = 0.25;
  results.direct_large_error.clear();
  const std::string refuted = report_html(results, "");
  BOOST_TEST(contains(proved, "within the bound"));
  BOOST_TEST(!contains(refuted, "within the bound"));
  BOOST_TEST(contains(refuted, "beyond"));
  BOOST_TEST(contains(proved, "<pre>"));
  BOOST_TEST(!contains(refuted, "<pre>"));
}

BOOST_AUTO_TEST_CASE(text_is_escaped) {
  BOOST_TEST(escaped("<b title=\"x\">'&amp;'") == "&lt;b title=&quot;x&quot;&gt;&#39;&amp;amp;&#39;");
}

BOOST_AUTO_TEST_CASE(retrieval_picture_frames_the_right_one, *kNeedsFont) {
  constexpr int kSize = 72;
  const tapecache::data::Image blue{kSize, kSize, 3, [] {
                                      std::vector<std::uint8_t> pixels;
                                      for (int i = 0; i < kSize * kSize; ++i) pixels.insert(pixels.end(), {0, 0, 255});
                                      return pixels;
                                    }()};
  const std::vector<tapecache::data::Image> pictures(8, blue);
  const auto greens = [](const tapecache::data::Image& image) {
    int count = 0;
    for (std::size_t i = 0; i + 2 < image.pixels.size(); i += 3) {
      count += image.pixels[i] == 0x00 && image.pixels[i + 1] == 0x9E && image.pixels[i + 2] == 0x73;
    }
    return count;
  };
  std::vector<RetrievalRow> rows(3);
  for (RetrievalRow& row : rows) {
    row.caption = "a rather long caption, with many words that must be wrapped, caf\u00e9, " + std::string(200, 'w');
    row.right = 7;
    row.found = {0, 1, 2, 3, 4};
    row.similarity = {0.9, 0.8, 0.7, 0.6, 0.5};
  }
  const tapecache::data::Image unframed = draw_retrieval(rows, pictures);
  BOOST_TEST(greens(unframed) == 0);
  rows[1].found[2] = 7;
  const tapecache::data::Image image = draw_retrieval(rows, pictures);
  BOOST_TEST(greens(image) > 4 * kSize);
  BOOST_TEST(image.channels == 3);
  BOOST_TEST(image.width > 6 * kSize);
  BOOST_TEST(image.height > 3 * kSize);
  BOOST_TEST(image.pixels.size() == static_cast<std::size_t>(image.width) * static_cast<std::size_t>(image.height) * 3);
  int blues = 0, dark = 0;
  for (std::size_t i = 0; i + 2 < image.pixels.size(); i += 3) {
    blues += image.pixels[i] == 0 && image.pixels[i + 2] == 255;
    dark += image.pixels[i] < 60 && image.pixels[i + 1] < 60 && image.pixels[i + 2] < 60;
  }
  BOOST_TEST(blues == 3 * 6 * kSize * kSize);
  BOOST_TEST(dark > 500);  // the captions
  rows.push_back(rows[0]);
  BOOST_TEST(draw_retrieval(rows, pictures).height > image.height);
}

BOOST_AUTO_TEST_SUITE_END()
