#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

/// What `bench_gradcache` measures, each part in a file of its own. All in f32.
namespace gradcache_bench {

struct Effort {
  int rounds = 7;
  std::int64_t batch = 256;            ///< of the timed steps
  std::int64_t largest_batch = 65536;  ///< of the peak measurement
  std::int64_t tiled_batch = 131072;   ///< of the tiled loss alone; 0 leaves it out
};

struct ChunkCost {
  std::int64_t chunk = 0;
  double ratio = 0;  ///< seconds of the cached step over those of the direct one
};

struct BudgetCost {
  double share = 0;  ///< of the way from what no kept tape needs to what all need
  std::size_t bytes = 0, peak_bytes = 0;
  double kept = 0;  ///< share of the chunks whose tape was kept
  double ratio = 0;
};

/// What a cached step costs against the direct one, in time.
struct Cost {
  double direct_seconds = 0;
  std::vector<ChunkCost> by_chunk;
  std::vector<BudgetCost> by_budget;
  double no_tape_kept = 0;  ///< at chunks of 32
  double ample_budget = 0;
};
Cost measure_cost(const Effort& effort);

struct Peak {
  std::int64_t batch = 0;
  std::size_t bytes = 0;        ///< most in use during the step
  std::size_t beyond_data = 0;  ///< without weights, input, representations and their gradients
};

/// How much memory a cached step takes at a fixed chunk size as the batch grows, under the tiled loss.
std::vector<Peak> measure_peaks(const Effort& effort);

struct TiledLoss {
  std::int64_t batch = 0, width = 0;
  std::size_t peak_bytes = 0;
  double seconds = 0, loss = 0;
};
/// Forward and backward of the tiled symmetric loss alone: representations, gradients and everything else counted.
TiledLoss measure_tiled_loss(std::int64_t batch);

struct Lengths {
  std::size_t samples = 0;
  std::int64_t longest = 0;
  double mean_length = 0;
  double speedup = 0;  ///< seconds of padded chunks over those of chunks by tokens
};
/// Names against keywords of the emoji, of CLDR, with chunks padded to the longest text and with chunks by tokens.
Lengths measure_lengths(const Effort& effort);

/// Seconds of reproducible steps, in blocks of so many samples, over those of plain ones.
struct ReproducibleCost {
  std::int64_t block = 0;
  double cached = 0, direct = 0;
};
struct Reproducible {
  bool bit_identical = true;
  std::vector<std::int64_t> chunks;
  std::vector<ReproducibleCost> cost;           ///< towers of the demo's size
  std::vector<ReproducibleCost> cost_vit_tiny;  ///< ViT-Ti/4 and a text tower of its width, a quarter of the batch
};
Reproducible measure_reproducible(const Effort& effort);

/// Writes `cost.svg` and `peak.svg`. False where gnuplot is not installed.
bool write_plots(const std::string& folder, const Cost& cost, const std::vector<Peak>& peaks);

}  // namespace gradcache_bench
