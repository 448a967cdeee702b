// What the cached step costs: time against the direct step by chunk size and by memory budget, peak memory as the batch
// grows, chunks by tokens against padded ones, bit-identical sums. Prints tables and writes gradcache.json and plots.

#include <cstdio>
#include <exception>
#include <string>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "measurements.h"
#include "tapecache/core/files.h"

namespace {

using namespace gradcache_bench;
using Json = nlohmann::ordered_json;

constexpr double kMiB = 1048576;

Json report(const Effort& effort, const std::string& folder) {
  const Cost cost = measure_cost(effort);
  fmt::print("cached step, seconds over the direct step's ({:.3f} s at batch {})\n", cost.direct_seconds, effort.batch);
  Json chunks = Json::array(), budgets = Json::array(), batches = Json::array();
  for (const ChunkCost& c : cost.by_chunk) {
    fmt::print("  chunks of {:4}, no tape kept   {:.3f}\n", c.chunk, c.ratio);
    chunks.push_back({{"chunk", c.chunk}, {"ratio", c.ratio}});
  }
  for (const BudgetCost& c : cost.by_budget) {
    fmt::print("  budget {:7.1f} MiB ({:3.0f} %), {:3.0f} % of tapes kept, peak {:7.1f} MiB   {:.3f}\n",
               static_cast<double>(c.bytes) / kMiB, 100 * c.share, 100 * c.kept,
               static_cast<double>(c.peak_bytes) / kMiB, c.ratio);
    budgets.push_back(
        {{"share", c.share}, {"bytes", c.bytes}, {"peak_bytes", c.peak_bytes}, {"kept", c.kept}, {"ratio", c.ratio}});
  }
  const Reproducible bits = measure_reproducible(effort);
  fmt::print("reproducible: {} over {} chunk sizes\n", bits.bit_identical ? "bit-identical" : "NOT BIT-IDENTICAL",
             bits.chunks.size());
  const auto costs_of = [](const char* model, const std::vector<ReproducibleCost>& costs) {
    Json all = Json::array();
    for (const ReproducibleCost& c : costs) {
      fmt::print("  {} in blocks of {:2}: {:.3f} (cached), {:.3f} (direct)\n", model, c.block, c.cached, c.direct);
      all.push_back({{"block", c.block}, {"cached", c.cached}, {"direct", c.direct}});
    }
    return all;
  };
  const Json demo_costs = costs_of("demo's size", bits.cost), vit_tiny_costs = costs_of("ViT-Ti", bits.cost_vit_tiny);
  const Lengths lengths = measure_lengths(effort);
  fmt::print("chunks by tokens: {:.2f} times as fast as padded ones ({} texts of {:.1f} tokens, longest {})\n",
             lengths.speedup, lengths.samples, lengths.mean_length, lengths.longest);
  const std::vector<Peak> peaks = measure_peaks(effort);
  double at_256 = 0;
  for (const Peak& p : peaks) {
    fmt::print("peak at batch {:6}: {:8.1f} MiB, {:6.2f} MiB beyond weights, input and representations\n", p.batch,
               static_cast<double>(p.bytes) / kMiB, static_cast<double>(p.beyond_data) / kMiB);
    batches.push_back({{"batch", p.batch}, {"peak_bytes", p.bytes}, {"beyond_data", p.beyond_data}});
    if (p.batch == 256) at_256 = static_cast<double>(p.beyond_data);
  }
  const double peak_ratio = static_cast<double>(peaks.back().beyond_data) / at_256;
  fmt::print("peak beyond the data at batch {} over that at 256: {:.3f}\n", peaks.back().batch, peak_ratio);
  Json result{{"overhead_no_tape_kept", cost.no_tape_kept},
              {"overhead_ample_budget", cost.ample_budget},
              {fmt::format("peak_ratio_{}_to_256", peaks.back().batch), peak_ratio},
              {"length_aware_speedup", lengths.speedup},
              {"bit_identical", bits.bit_identical},
              {"bit_identical_cost", demo_costs},
              {"bit_identical_cost_vit_tiny", vit_tiny_costs},
              {"bit_identical_chunks", bits.chunks},
              {"batch", effort.batch},
              {"direct_seconds", cost.direct_seconds},
              {"by_chunk", chunks},
              {"by_budget", budgets},
              {"by_batch", batches}};
  if (effort.tiled_batch > 0) {
    const TiledLoss tiled = measure_tiled_loss(effort.tiled_batch);
    fmt::print("tiled loss at {} x {}: peak {:.1f} MiB in all, {:.1f} s forward and backward\n", tiled.batch,
               tiled.width, static_cast<double>(tiled.peak_bytes) / kMiB, tiled.seconds);
    result[fmt::format("tiled_loss_peak_bytes_{}", tiled.batch)] = tiled.peak_bytes;
    result["tiled_loss_seconds"] = tiled.seconds;
  }
  write_plots(folder, cost, peaks);
  return result;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Benchmarks of the cached step");
  std::string folder = "out/bench";
  bool quick = false;
  app.add_option("--out", folder, "folder for gradcache.json and the plots")->capture_default_str();
  app.add_flag("--quick", quick, "smaller batches and fewer rounds");
  CLI11_PARSE(app, argc, argv);
  std::setvbuf(stdout, nullptr, _IOLBF, 0);  // the parts take minutes
  try {
    Effort effort;
    if (quick) effort = {.rounds = 3, .batch = 64, .largest_batch = 1024, .tiled_batch = 4096};
    tapecache::write_file_atomically(folder + "/gradcache.json", report(effort, folder).dump(2) + "\n");
    fmt::print("written to {}\n", folder);
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_gradcache: {}\n", error.what());
    return 1;
  }
}
