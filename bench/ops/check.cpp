#include "check.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "best_seconds.h"
#include "op_run.h"
#include "tapecache/core/files.h"
#include "tapecache/core/parallel_for.h"

namespace ops_bench {

namespace {

using tapecache::testing::OpRow;
using Json = nlohmann::ordered_json;

constexpr int kTrials = 3, kMoreTrials = 5, kPatientTrials = 8;
constexpr double kMargin = 0.75;
constexpr double kTrialSeconds = 0.02, kInTurnSeconds = 0.1;

/// An op's share of the ceilings where both are measured in turn, so that whatever slows the machine slows both.
double share_in_turn(const OpRun& op) {
  using Clock = std::chrono::steady_clock;
  const std::vector<char> from(static_cast<std::size_t>(op.work.bytes / 2) + 1, 1);
  std::vector<char> to(from.size());
  double seconds = std::numeric_limits<double>::infinity(), arithmetic = seconds, copy = seconds;  // each at its best
  const auto end = Clock::now() + std::chrono::duration<double>(kInTurnSeconds);
  while (Clock::now() < end) {
    double flops = 0;
    const double flop_seconds = best_seconds(0, [&] { flops = multiply_and_add_once(); });
    arithmetic = std::min(arithmetic, op.work.flops * flop_seconds / flops);
    copy = std::min(copy, best_seconds(0, [&] { copy_once(from, to, static_cast<std::int64_t>(from.size())); }));
    seconds = std::min(seconds, best_seconds(0, op.run));
  }
  return std::max(arithmetic, copy) / seconds;
}

struct Measured {
  OpRow row;
  bool backward;
  Work work{};
  double seconds = std::numeric_limits<double>::infinity();
  double best_in_turn = 0;

  std::string name() const { return run_name(row, backward); }
  bool is_judged(const Ceilings& c) const { return work.least_seconds(c) >= kLeastJudged; }
  double share(const Ceilings& c) const { return std::max(work.least_seconds(c) / seconds, best_in_turn); }
};

struct Measurements {
  Ceilings ceilings;
  std::vector<Measured> ops;

  Measurements() {
#ifndef __OPTIMIZE__
    throw std::runtime_error("floors are those of optimised kernels, and this build has others");
#endif
    tapecache::set_thread_count(std::min(2, tapecache::thread_count()));
    for (const OpRow& row : measured_rows()) {
      for (const bool backward : {false, true}) ops.push_back({row, backward});
    }
    for (int i = 0; i < kTrials; ++i) trial([](const Measured&) { return true; });
  }

  template <class Wanted>
  void trial(const Wanted& wanted) {
    ceilings.measure();
    for (Measured& op : ops) {
      if (!wanted(op)) continue;
      const OpRun run = make_run(op.row, op.backward);
      op.work = run.work;
      op.seconds = std::min(op.seconds, best_seconds(kTrialSeconds, run.run));
    }
  }

  template <class Wanted>
  void trial_in_turn(const Wanted& wanted) {
    for (Measured& op : ops) {
      if (wanted(op)) op.best_in_turn = std::max(op.best_in_turn, share_in_turn(make_run(op.row, op.backward)));
    }
  }
};

std::map<std::string, double> read_floors(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error(fmt::format("cannot read floors from '{}': {}", path, std::strerror(errno)));
  return Json::parse(file).get<std::map<std::string, double>>();
}

bool names_match(const Measurements& found, const std::map<std::string, double>& floors) {
  std::set<std::string> names;
  for (const Measured& op : found.ops) names.insert(op.name());
  bool match = true;
  const auto report = [&](const std::string& name, const char* what) {
    fmt::print("{}: {}\n", name, what);
    match = false;
  };
  for (const std::string& name : names) {
    if (!floors.contains(name)) report(name, "has no floor; bench_ops --write-floors gives it one");
  }
  for (const auto& floor : floors) {
    if (!names.contains(floor.first)) report(floor.first, "has a floor, but is not in the op table");
  }
  return match;
}

void print_activations(const Measurements& found) {
  const std::set<std::string> activations{"relu", "gelu",     "gelu_tanh", "quick_gelu",
                                          "silu", "softplus", "sigmoid",   "tanh"};
  fmt::print("activation with its gradient: share of a copy's speed\n");
  for (const Measured& op : found.ops) {
    if (!op.backward || !activations.contains(op.row.name)) continue;
    fmt::print("  {:12} {:6.1f} %\n", op.row.name, 100 * op.work.copy_seconds(found.ceilings) / op.seconds);
  }
}

}  // namespace

bool check(const std::string& path) {
  const std::map<std::string, double> floors = read_floors(path);
  Measurements found;
  if (!names_match(found, floors)) return false;
  const auto fails = [&](const Measured& op) {
    return op.is_judged(found.ceilings) && !(op.share(found.ceilings) >= 0.5 * floors.at(op.name()));
  };
  // Whoever else uses the machine may do so for seconds.
  for (int i = 0; i < kPatientTrials && std::ranges::any_of(found.ops, fails); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50 << i));
    found.trial_in_turn(fails);
  }

  const auto failed = std::ranges::count_if(found.ops, fails);
  const auto judged =
      std::ranges::count_if(found.ops, [&](const Measured& op) { return op.is_judged(found.ceilings); });
  print_activations(found);
  if (failed > 0) fmt::print("{:50} {:>10} {:>8} {:>8}\n", "far below its floor", "us", "share", "floor");
  for (const Measured& op : found.ops) {
    if (!fails(op)) continue;
    fmt::print("{:50} {:10.1f} {:8.3f} {:8.3f}\n", op.name(), 1e6 * op.seconds, op.share(found.ceilings),
               floors.at(op.name()));
  }
  fmt::print("ceilings: {:.0f} GFLOP/s, copies of 4 MiB {:.0f} GB/s; {} of {} judged, {} failed\n",
             1e-9 * found.ceilings.flops_per_second(), 1e-9 * found.ceilings.bytes_per_second(8 << 20), judged,
             found.ops.size(), failed);
  return failed == 0;
}

void write_floors(const std::string& path) {
  std::map<std::string, double> before;
  if (std::filesystem::exists(path)) before = read_floors(path);
  Measurements found;
  for (int i = 0; i < kMoreTrials; ++i) found.trial([](const Measured&) { return true; });
  Json floors;
  for (const Measured& op : found.ops) {
    const double share = std::round(1000 * kMargin * std::min(1.0, op.share(found.ceilings))) / 1000;
    const auto known = before.find(op.name());
    floors[op.name()] = known == before.end() ? share : std::min(share, known->second);
  }
  tapecache::write_file_atomically(path, floors.dump(2) + "\n");
}

}  // namespace ops_bench
