#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace tapecache::program {

/// Progress of something of many steps on standard error: a bar on a terminal, else a plain line now and then.
class Progress {
 public:
  /// `done`: steps that were taken before, by a run that this one goes on from.
  Progress(std::string title, std::int64_t steps, std::int64_t done = 0);
  /// Ends an open bar's line.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Shows how many steps are done, `text` and the time left.
  void update(std::int64_t done, std::string_view text);
  /// Ends an open bar's line, for others to write; the next update opens another.
  void pause();

 private:
  using Clock = std::chrono::steady_clock;

  std::string title_;
  std::int64_t steps_, first_;
  bool terminal_;
  bool open_ = false, shown_ = false;
  Clock::time_point begin_ = Clock::now(), last_shown_{};
};

/// "1:05:09" or "3:07".
std::string clock_text(double seconds);
/// "1.2 GiB" or "312 MiB".
std::string bytes_text(std::size_t bytes);

}  // namespace tapecache::program
