#include "progress.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

#include <fmt/format.h>

namespace tapecache::program {

namespace {

constexpr std::int64_t kBarWidth = 24;

}  // namespace

Progress::Progress(std::string title, std::int64_t steps, std::int64_t done)
    : title_(std::move(title)),
      steps_(std::max<std::int64_t>(1, steps)),
      first_(done),
      terminal_(::isatty(STDERR_FILENO) == 1) {}

Progress::~Progress() { pause(); }

void Progress::pause() {
  if (open_) std::fputc('\n', stderr);
  open_ = false;
}

void Progress::update(std::int64_t done, std::string_view text) {
  const Clock::time_point now = Clock::now();
  const auto pause = terminal_ ? std::chrono::milliseconds(100) : std::chrono::milliseconds(10'000);
  if (done < steps_ && shown_ && now - last_shown_ < pause) return;
  last_shown_ = now;
  shown_ = true;
  std::string left;
  if (done > first_ && done < steps_) {
    const double seconds = std::chrono::duration<double>(now - begin_).count();
    left = fmt::format("  {} left",
                       clock_text(seconds / static_cast<double>(done - first_) * static_cast<double>(steps_ - done)));
  }
  const std::string line = fmt::format("{}/{}  {}{}", done, steps_, text, left);
  if (terminal_) {
    const std::int64_t filled = kBarWidth * std::min(done, steps_) / steps_;
    fmt::print(stderr, "\r\033[K{} [{:#<{}}{:.<{}}] {}", title_, "", filled, "", kBarWidth - filled, line);
    open_ = true;
  } else {
    fmt::print(stderr, "{}  {}\n", title_, line);
  }
  std::fflush(stderr);
}

std::string clock_text(double seconds) {
  const auto whole = std::int64_t{std::llround(seconds)};
  if (whole < 3600) return fmt::format("{}:{:02}", whole / 60, whole % 60);
  return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

std::string bytes_text(std::size_t bytes) {
  constexpr double kMiB = 1024.0 * 1024.0;
  const double mib = static_cast<double>(bytes) / kMiB;
  return mib < 1024 ? fmt::format("{:.0f} MiB", mib) : fmt::format("{:.1f} GiB", mib / 1024);
}

}  // namespace tapecache::program
