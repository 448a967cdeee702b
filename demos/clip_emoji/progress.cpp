#include "progress.h"

#include <unistd.h>

#include <cstdio>

#include <fmt/format.h>

namespace clip_emoji {

namespace {

constexpr std::int64_t kBarWidth = 30;

}  // namespace

Progress::Progress(std::string title, std::int64_t steps)
    : title_(std::move(title)), steps_(steps), terminal_(::isatty(STDERR_FILENO) == 1) {}

Progress::~Progress() {
  if (open_) std::fputc('\n', stderr);
}

void Progress::update(std::int64_t done, double loss, double pairs_per_second) {
  const Clock::time_point now = Clock::now();
  const auto pause = terminal_ ? std::chrono::milliseconds(100) : std::chrono::milliseconds(10'000);
  if (done != steps_ && done != 1 && now - last_shown_ < pause) return;
  last_shown_ = now;
  const std::string text = fmt::format("{}/{}  loss {:.4f}  {:.0f} pairs/s", done, steps_, loss, pairs_per_second);
  if (terminal_) {
    const std::int64_t filled = kBarWidth * done / steps_;
    fmt::print(stderr, "\r\033[K{:<16} [{:#<{}}{:.<{}}] {}", title_, "", filled, "", kBarWidth - filled, text);
    open_ = true;
  } else {
    fmt::print(stderr, "{:<16} {}\n", title_, text);
  }
  std::fflush(stderr);
}

}  // namespace clip_emoji
