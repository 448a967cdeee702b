// Whole training steps: forward, backward and AdamW. Prints a table and writes train_step.json; with --serve it takes
// one step for each line it is sent, so that `bench/peers` can run it in turn with others.

#include <chrono>
#include <cstdio>
#include <exception>
#include <iostream>
#include <string>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "../timing.h"
#include "serve.h"
#include "tapecache/core/device.h"
#include "tapecache/core/files.h"
#include "tapecache/core/parallel_for.h"
#include "tapecache/ops/linear.h"
#include "training.h"

namespace {

using namespace tapecache;
using namespace train_step;
using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

/// FLOP/s of f32 products of 1024 × 1024 matrices, the best of a second.
double gemm_ceiling() {
  constexpr std::int64_t kSide = 1024;
  const Variable a = Tensor::full({kSide, kSide}, 0.5), b = Tensor::full({kSide, kSide}, 0.25);
  double best = 0;
  for (const auto end = Clock::now() + std::chrono::seconds(1); Clock::now() < end;) {
    const auto begin = Clock::now();
    ops::matmul(a, b);
    best = std::max(best, 2.0 * kSide * kSide * kSide / seconds_since(begin));
  }
  return best;
}

Json measure(const std::string& name, DType precision, int rounds, double ceiling) {
  Training training(name, {.precision = precision});
  double loss = 0;
  const std::vector<std::function<void()>> runs{[&] { loss = training.step(); }};
  const PeakMeter meter;
  const double seconds = time_in_turn(runs, rounds).seconds(0);
  const double speed = training.workload->flops / seconds;
  fmt::print("{:26} {:9.1f} ms {:8.1f} GFLOP/s {:5.1f} % {:8.1f} MiB   loss {:.4f}\n", name, 1e3 * seconds,
             1e-9 * speed, 100 * speed / ceiling, static_cast<double>(meter.peak()) / 1048576, loss);
  return {{"model", name},
          {"dtype", precision == DType::kFloat32 ? "float32" : "bfloat16"},
          {"seconds", seconds},
          {"flops_per_second", speed},
          {"gemm_share", speed / ceiling},
          {"peak_bytes", meter.peak()}};
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Benchmark of whole training steps");
  std::string folder = "out/bench", serve_name, dtype = "float32";
  std::vector<std::string> names = workload_names();
  int rounds = 7, threads = 0;
  app.add_option("--out", folder, "folder for train_step.json")->capture_default_str();
  app.add_option("--model", names, "what to measure")->check(CLI::IsMember(workload_names()))->capture_default_str();
  app.add_option("--dtype", dtype, "of the matrix products")->check(CLI::IsMember({"float32", "bfloat16"}));
  app.add_option("--rounds", rounds, "measured steps")->check(CLI::Range(1, 1000))->capture_default_str();
  app.add_option("--threads", threads, "threads to compute with; 0: all")->check(CLI::Range(0, 1024));
  app.add_option("--serve", serve_name, "take steps of this model on request")->check(CLI::IsMember(workload_names()));
  CLI11_PARSE(app, argc, argv);
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  try {
    if (threads > 0) set_thread_count(threads);
    const DType precision = dtype == "float32" ? DType::kFloat32 : DType::kBFloat16;
    if (!serve_name.empty()) {
      serve(std::cin, serve_name, {.precision = precision}, gemm_ceiling);
      return 0;
    }
    const double ceiling = gemm_ceiling();
    fmt::print("{} threads, GEMM of 1024: {:.1f} GFLOP/s\n", thread_count(), 1e-9 * ceiling);
    Json models = Json::array();
    for (const std::string& name : names) models.push_back(measure(name, precision, rounds, ceiling));
    const Json report{{"threads", thread_count()}, {"gemm_flops_per_second", ceiling}, {"models", models}};
    write_file_atomically(folder + "/train_step.json", report.dump(2) + "\n");
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_train_step: {}\n", error.what());
    return 1;
  }
}
