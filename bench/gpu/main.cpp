// What the cached step does on a GPU: whole CLIP steps in bf16, cached against direct, the memory of the tiled loss, and the
// ceilings of the device measured in the same run. Writes gpu_bench.json anew after each figure, so that what was measured
// is kept however it ends.

#include <chrono>
#include <cstdio>
#include <exception>
#include <functional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "../timing.h"
#include "../train_step/workloads.h"
#include "tapecache/autograd/autocast.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/core/allocator.h"
#include "tapecache/core/atomic_file.h"
#include "tapecache/core/error.h"
#include "tapecache/gradcache/tiled_losses.h"
#include "tapecache/ops/matmul.h"
#include "tapecache/train/optimizer.h"

namespace {

using namespace tapecache;
using train_step::ClipSize;
using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

const Device kDevice = Device::cuda();

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

double mebibytes(std::size_t bytes) { return static_cast<double>(bytes) / 1048576; }

/// Random in [-1, 1), on the device.
Tensor random_matrix(std::int64_t rows, std::int64_t cols, std::uint32_t state) {
  Tensor t = Tensor::empty({rows, cols});
  float* p = t.mutable_data<float>();
  for (std::int64_t i = 0; i < t.numel(); ++i) {
    p[i] = static_cast<float>((state = state * 1664525u + 1013904223u) >> 8) * 0x1p-23f - 1.0f;
  }
  return t.to(kDevice);
}

/// Median seconds of a queued piece of work.
double seconds_of(int rounds, const std::function<void()>& work) {
  const std::vector<std::function<void()>> runs{[&] {
    work();
    synchronize(kDevice);
  }};
  return time_in_turn(runs, rounds).seconds(0);
}

/// FLOP/s of a square product whose operands are held in `precision`, several queued one behind another.
double gemm_ceiling(std::int64_t side, DType precision) {
  constexpr int kQueued = 8;
  const Variable a = random_matrix(side, side, 1), b = random_matrix(side, side, 2);
  const auto flops = 2.0 * static_cast<double>(side) * static_cast<double>(side) * static_cast<double>(side);
  const Autocast autocast(precision);
  const double seconds = seconds_of(5, [&] {
    for (int i = 0; i < kQueued; ++i) ops::matmul(a, b);
  });
  return kQueued * flops / seconds;
}

/// Bytes read and written a second by a copy.
double copy_ceiling(std::int64_t floats) {
  const Tensor from = random_matrix(1, floats, 3);
  Tensor to = from.clone();
  return 2.0 * static_cast<double>(from.bytes()) / seconds_of(5, [&] { to.copy_from(from); });
}

struct Scale {
  std::int64_t gemm_side = 8192, copy_floats = std::int64_t{1} << 28, tiled_rows = 131072, tiled_width = 512;
  ClipSize base = ClipSize::kBase32, large = ClipSize::kLarge14;
  std::int64_t base_batch = 4096, base_chunk = 256;
  std::int64_t large_batch = 1024, large_chunk = 64;
  std::int64_t compared_batch = 1024, compared_chunk = 128;
  int rounds = 7;

  static Scale tiny() {
    return {64, 4096, 96, 8, ClipSize::kTiny, ClipSize::kTiny, 8, 4, 8, 2, 8, 4, 1};
  }
};

class Benchmark {
 public:
  Benchmark(const Scale& scale, std::string path, double seconds)
      : scale_(scale), path_(std::move(path)), begin_(Clock::now()), budget_(seconds) {}

  void run() {
    measure("bf16_gemm_flops_per_second", [&] { return gemm_ceiling(scale_.gemm_side, DType::kBFloat16); });
    measure("f32_gemm_flops_per_second", [&] { return gemm_ceiling(scale_.gemm_side, DType::kFloat32); });
    measure("copy_bytes_per_second", [&] { return copy_ceiling(scale_.copy_floats); });
    measure("clip_b_32_cached", [&] { return step(scale_.base, scale_.base_batch, scale_.base_chunk); });
    measure("clip_b_32_direct_for_comparison", [&] { return step(scale_.base, scale_.compared_batch, 0); });
    measure("clip_b_32_cached_for_comparison",
            [&] { return step(scale_.base, scale_.compared_batch, scale_.compared_chunk); });
    measure("cached_over_direct", [&] {
      return results_.at("clip_b_32_cached_for_comparison").at("seconds").get<double>() /
             results_.at("clip_b_32_direct_for_comparison").at("seconds").get<double>();
    });
    measure("tiled_loss", [&] { return tiled_loss(); });
    measure("clip_l_14_cached", [&] { return step(scale_.large, scale_.large_batch, scale_.large_chunk); });
  }
  bool failed() const { return failed_; }

 private:
  /// A figure, or why there is none.
  template <class Figure>
  void measure(const std::string& name, const Figure& figure) {
    Json found;
    if (seconds_since(begin_) > budget_) {
      found = "not measured: no time was left";
    } else {
      try {
        found = figure();
      } catch (const std::exception& error) {
        found = fmt::format("not measured: {}", error.what());
        failed_ = true;
      }
    }
    results_[name] = found;
    fmt::print("{:34} {}\n", name, found.dump());
    allocator(kDevice).release_cache();
    write_file_atomically(path_, results_.dump(2) + "\n");
  }

  Json step(ClipSize size, std::int64_t samples, std::int64_t chunk) {
    const auto workload = train_step::make_clip(size, samples, chunk, {DType::kBFloat16, kDevice});
    train::AdamW optimizer(workload->parameters);
    double loss = 0;
    const std::vector<std::function<void()>> runs{[&] {
      loss = workload->loss_and_gradients();
      optimizer.step(1e-4);
      optimizer.clear_gradients();
      synchronize(kDevice);
    }};
    const PeakMeter meter(kDevice);
    const double seconds = time_in_turn(runs, scale_.rounds).seconds(0);
    const double speed = workload->flops / seconds;
    return {{"batch", samples},
            {"chunk", chunk},
            {"dtype", "bfloat16"},
            {"seconds", seconds},
            {"pairs_per_second", static_cast<double>(samples) / seconds},
            {"flops_per_second", speed},
            {"gemm_share", speed / results_.at("bf16_gemm_flops_per_second").get<double>()},
            {"peak_mebibytes", mebibytes(meter.peak())},
            {"loss", loss}};
  }

  Json tiled_loss() {
    Tape tape;
    const Variable images = tape.leaf(random_matrix(scale_.tiled_rows, scale_.tiled_width, 1));
    const Variable texts = tape.leaf(random_matrix(scale_.tiled_rows, scale_.tiled_width, 2));
    const Variable log_scale = tape.leaf(Tensor::full({}, -1.0).to(kDevice));
    const PeakMeter meter(kDevice);
    const std::size_t before = allocator(kDevice).stats().current;
    const auto begin = Clock::now();
    Variable loss;
    {
      const Recording recording(tape);
      loss = gradcache::tiled_clip_loss(images, texts, log_scale);
    }
    tape.backward(loss);
    synchronize(kDevice);
    const double seconds = seconds_since(begin);
    // The gradients of both inputs are the result, not extra.
    const std::size_t gradients = images.value().bytes() + texts.value().bytes();
    return {{"rows", scale_.tiled_rows},
            {"width", scale_.tiled_width},
            {"seconds", seconds},
            {"extra_mebibytes", mebibytes(meter.peak() - before - gradients)},
            {"loss", loss.value().item()}};
  }

  Scale scale_;
  std::string path_;
  Clock::time_point begin_;
  double budget_;
  Json results_;
  bool failed_ = false;
};

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Benchmark of the cached step on a GPU");
  std::string folder = "bench/results";
  double seconds = 300;
  bool describe = false, tiny = false;
  app.add_option("--out", folder, "folder for gpu_bench.json")->capture_default_str();
  app.add_option("--seconds", seconds, "after which nothing new is begun")->capture_default_str();
  app.add_flag("--describe", describe, "print the versions of CUDA's libraries as JSON and end");
  app.add_flag("--tiny", tiny, "sizes that mean nothing, to try the program out");
  CLI11_PARSE(app, argc, argv);
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  try {
    if (cuda_device_count() == 0) throw DeviceError("there is no CUDA device");
    if (describe) {
      Json versions{{"name", device_name(kDevice)}};
      for (const auto& [library, version] : device_versions(kDevice)) versions[library] = version;
      fmt::print("{}\n", versions.dump());
      return 0;
    }
    Benchmark benchmark(tiny ? Scale::tiny() : Scale{}, folder + "/gpu_bench.json", seconds);
    benchmark.run();
    return benchmark.failed() ? 1 : 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_gpu: {}\n", error.what());
    return 1;
  }
}
