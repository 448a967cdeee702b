#include "options.h"

#include <CLI/CLI.hpp>
#include <map>

namespace clip_emoji {

ParsedOptions parse_options(int argc, char** argv) {
  ParsedOptions parsed;
  Options& o = parsed.options;
  CLI::App app{
      "Trains a small CLIP on emoji pictures and captions: directly, with gradient caching, with plain\n"
      "gradient accumulation, and with gradient caching at a batch that direct training cannot hold."};
  app.add_option("--out", o.out, "Folder for summary.json, metrics.jsonl, report.html and retrieval.png")
      ->capture_default_str();
  app.add_flag("--quick", o.quick, "A short run that shows the equality, not the quality");
  app.add_option("--font", o.paths.font, "Colour bitmap emoji font")->capture_default_str();
  app.add_option("--annotations", o.paths.annotations, "CLDR folder with annotations/ and annotationsDerived/")
      ->capture_default_str();
  app.add_option("--emoji-test", o.paths.emoji_test, "Unicode's emoji-test.txt")->capture_default_str();
  app.add_option("--steps", o.steps, "Steps of the three ways at the small batch")->check(CLI::Range(1, 1'000'000));
  app.add_option("--steps-large", o.steps_large, "Steps at the large batch")->check(CLI::Range(1, 1'000'000));
  app.add_option("--batch", o.batch, "Small batch")->check(CLI::Range(2, 1 << 20))->capture_default_str();
  app.add_option("--chunk", o.chunk, "Chunk of the cached and accumulated ways")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--batch-large", o.batch_large, "Large batch")->check(CLI::Range(2, 1 << 20))->capture_default_str();
  app.add_option("--memory-limit", o.memory_limit_mib, "Bytes that training may use at once, in MiB")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  app.add_option("--threads", o.threads, "Threads to compute with (default: one a processor)")
      ->check(CLI::Range(1, 1024));
  app.add_option("--seed", o.seed, "Seed of weights, batches and dropout")->capture_default_str();
  const std::map<std::string, tapecache::DType> dtypes{{"f32", tapecache::DType::kFloat32},
                                                       {"f64", tapecache::DType::kFloat64}};
  std::string dtype = "f32";
  app.add_option("--dtype", dtype, "f32 or f64")->check(CLI::IsMember({"f32", "f64"}))->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    parsed.exit_code = app.exit(e);
  }
  o.dtype = dtypes.at(dtype == "f64" ? "f64" : "f32");
  return parsed;
}

}  // namespace clip_emoji
