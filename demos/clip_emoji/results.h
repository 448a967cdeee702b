#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tapecache/core/files.h"
#include "training.h"

namespace clip_emoji {

/// What one way of training came to.
struct WayResult {
  std::string name;  ///< direct, gradcache, accumulation or gradcache_large
  std::int64_t batch = 0;
  std::optional<std::int64_t> chunk;  ///< nothing where the batch is not cut
  std::vector<StepRecord> records;
  std::map<int, double> recall_text_to_image, recall_image_to_text;  ///< by K, held-out pairs
  double linear_probe_accuracy = 0;                                  ///< held-out pictures
  std::size_t peak_bytes = 0;                                        ///< of the process that used most
  std::vector<std::size_t> peak_bytes_by_process;                    ///< empty where there is one
  double seconds = 0;

  /// The largest of the records' gradient differences (NaN where one is NaN); nothing where none was measured.
  std::optional<double> max_relative_gradient_difference() const;
  /// NaN before the first step.
  double pairs_per_second() const;
};

/// Most bytes in use during one step, measured without a limit.
struct MemoryPoint {
  std::int64_t batch = 0;
  std::size_t direct = 0, cached = 0;
};

struct Results {
  std::vector<WayResult> ways;
  std::int64_t pairs_train = 0, pairs_held_out = 0;
  std::string direct_large_error;  ///< of direct training at gradcache_large's batch; empty where it went through
  double majority_class_accuracy = 0;
  std::size_t memory_limit_bytes = 0;
  std::string dtype;  ///< f32 or f64
  std::uint64_t seed = 0;
  int threads = 0;                  ///< of each process
  std::vector<MemoryPoint> memory;  ///< ascending batch
  std::int64_t logits_size = 0;
  std::vector<float> logits;  ///< [logits_size, logits_size], pictures by captions

  /// Throws tapecache::ValueError where there is no such way.
  const WayResult& way(std::string_view name) const;
  /// recall@k of a random ranking of the held-out pairs.
  double chance(int k) const;
  /// Relative gradient difference up to which two ways count as equal.
  double equality_bound() const { return dtype == "f64" ? 1e-12 : 1e-5; }
};

/// Relative gradient difference above which accumulation counts as another gradient.
inline constexpr double kAccumulationBound = 1e-2;

/// What the demo sets out to show, as far as its options let it, and whether this run showed it. A NaN shows nothing.
std::vector<std::pair<std::string, bool>> check_claims(const Results& results);

/// summary.json. A number that is not finite is written as "nan", "inf" or "-inf"; null means not measured.
std::string summary_json(const Results& results);

/// metrics.jsonl, a line for every step as it is made: an AtomicFile, which is there when `finish` was reached.
class MetricsLog {
 public:
  /// Throws tapecache::FileError where the file cannot be made.
  explicit MetricsLog(const std::filesystem::path& path) : file_(path) {}

  void append(std::string_view way, const StepRecord& record);
  void finish() { file_.finish(); }

 private:
  tapecache::AtomicFile file_;
};

}  // namespace clip_emoji
