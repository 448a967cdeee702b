#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <string_view>

#include "tapecache/core/language.h"

namespace tapecache::train {

/// Scalars for TensorBoard: an event file, to be shown by `tensorboard --logdir FOLDER`.
class EventFile {
 public:
  /// Makes a new file `events.out.tfevents.…` in the folder, which is created where it is missing. With `resumed_step`,
  /// TensorBoard leaves out what older files of the folder have at that step and after. Throws FileError.
  explicit EventFile(const std::filesystem::path& folder, std::optional<std::int64_t> resumed_step = {});

  /// Adds a point to the curve `tag`. Throws FileError.
  void scalar(std::string_view tag, std::int64_t step, double value);
  /// Hands what was added to the system, so that readers see it. Throws FileError.
  void flush();

  const std::filesystem::path& path() const { return path_; }

 private:
  void add(std::string_view event);

  std::filesystem::path path_;
  std::ofstream file_;
};

}  // namespace tapecache::train
