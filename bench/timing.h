#pragma once

#include <algorithm>
#include <chrono>
#include <functional>
#include <span>
#include <vector>

/// Seconds of each of several runs, taken in turn in every round, so that what else the machine does falls on all.
struct Timings {
  std::vector<std::vector<double>> rounds;  // [round][run]

  static double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    const std::size_t half = values.size() / 2;
    return values.size() % 2 == 1 ? values[half] : 0.5 * (values[half - 1] + values[half]);
  }
  double seconds(std::size_t run) const {
    std::vector<double> values;
    for (const auto& round : rounds) values.push_back(round[run]);
    return median(std::move(values));
  }
  /// Median over the rounds of seconds(run) / seconds(reference).
  double ratio(std::size_t run, std::size_t reference) const {
    std::vector<double> values;
    for (const auto& round : rounds) values.push_back(round[run] / round[reference]);
    return median(std::move(values));
  }
};

/// One round to warm up, then `rounds` measured ones.
inline Timings time_in_turn(std::span<const std::function<void()>> runs, int rounds) {
  using Clock = std::chrono::steady_clock;
  Timings timings;
  for (int round = -1; round < rounds; ++round) {
    std::vector<double> seconds;
    for (const auto& run : runs) {
      const auto begin = Clock::now();
      run();
      seconds.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
    }
    if (round >= 0) timings.rounds.push_back(std::move(seconds));
  }
  return timings;
}
