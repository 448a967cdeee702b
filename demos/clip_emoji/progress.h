#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace clip_emoji {

/// Progress of one way on standard error: a bar on a terminal, else a plain line now and then.
class Progress {
 public:
  Progress(std::string title, std::int64_t steps);
  /// Ends an open bar's line.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void update(std::int64_t done, double loss, double pairs_per_second);

 private:
  using Clock = std::chrono::steady_clock;

  std::string title_;
  std::int64_t steps_;
  bool terminal_;
  bool open_ = false;
  Clock::time_point last_shown_{};
};

}  // namespace clip_emoji
