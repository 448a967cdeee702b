#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tapecache/train/metrics.h"

namespace tapecache::program {

/// The figures of a run, as they come: `metrics.jsonl`, an object a line, and an event file for TensorBoard.
class MetricsLog {
 public:
  using Figures = std::vector<std::pair<std::string, double>>;

  /// Begins new files in the folder; TensorBoard shows nothing any more of event files that are there. With
  /// `resumed_step` it goes on with those that are there, without what they have after that step. Throws FileError.
  explicit MetricsLog(const std::filesystem::path& folder, std::optional<std::int64_t> resumed_step = {});

  /// Figures of one kind ("train", "eval", "check") after so many steps. A number that is not finite is null in
  /// metrics.jsonl. Throws FileError.
  void add(std::string_view kind, std::int64_t step, const Figures& figures);

 private:
  std::filesystem::path path_;
  std::ofstream lines_;
  train::EventFile events_;
};

}  // namespace tapecache::program
