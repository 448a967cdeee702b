// What the cached step does on a GPU: whole CLIP steps in bf16, where their time goes, cached against direct, the
// memory of the tiled loss, and the ceilings of the device measured in the same run. Writes gpu_bench.json anew after
// each figure, so that what was measured is kept however it ends. With --serve it takes steps on request.

#include <chrono>
#include <cstdio>
#include <exception>
#include <iostream>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "../train_step/serve.h"
#include "../train_step/training.h"
#include "measure.h"
#include "op_costs.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/core/allocator.h"
#include "tapecache/core/device.h"
#include "tapecache/core/error.h"
#include "tapecache/core/files.h"
#include "tapecache/losses/losses.h"

namespace {

using namespace tapecache;
using namespace bench_gpu;
using train_step::ClipSize;
using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

struct Scale {
  std::int64_t gemm_side = 8192, copy_floats = std::int64_t{1} << 28, tiled_rows = 131072, tiled_width = 512;
  ClipSize base = ClipSize::kBase32, large = ClipSize::kLarge14;
  std::int64_t base_batch = 4096, base_chunk = 256;
  std::int64_t large_batch = 1024, large_chunk = 64;
  std::int64_t compared_batch = 1024, compared_chunk = 128;
  int rounds = 7;

  static Scale tiny() { return {64, 4096, 96, 8, ClipSize::kTiny, ClipSize::kTiny, 8, 4, 8, 2, 8, 4, 1}; }
};

class Benchmark {
 public:
  Benchmark(const Scale& scale, std::string path, double seconds)
      : scale_(scale), path_(std::move(path)), begin_(Clock::now()), budget_(seconds) {}

  /// In the order in which they should be known if time runs out.
  void run() {
    measure("bf16_gemm_flops_per_second", [&] { return gemm_ceiling(scale_.gemm_side, DType::kBFloat16); });
    measure("copy_bytes_per_second", [&] { return copy_ceiling(scale_.copy_floats); });
    measure("clip_b_32_cached", [&] { return step(scale_.base, scale_.base_batch, scale_.base_chunk); });
    measure("clip_b_32_costs",
            [&] { return model_costs(scale_.base, scale_.base_batch, scale_.base_chunk, ceilings()); });
    const auto [image, text] = block_sizes(scale_.base, scale_.base_chunk);
    measure("clip_b_32_image_block", [&] { return block_costs(image, ceilings()); });
    measure("clip_b_32_text_block", [&] { return block_costs(text, ceilings()); });
    measure("clip_l_14_cached", [&] { return step(scale_.large, scale_.large_batch, scale_.large_chunk); });
    measure("clip_b_32_direct_for_comparison", [&] { return step(scale_.base, scale_.compared_batch, 0); });
    measure("clip_b_32_cached_for_comparison",
            [&] { return step(scale_.base, scale_.compared_batch, scale_.compared_chunk); });
    measure("cached_over_direct", [&] {
      return figure("clip_b_32_cached_for_comparison", "seconds") /
             figure("clip_b_32_direct_for_comparison", "seconds");
    });
    measure("tiled_loss", [&] { return tiled_loss(); });
    const auto [large_image, large_text] = block_sizes(scale_.large, scale_.large_chunk);
    measure("clip_l_14_image_block", [&] { return block_costs(large_image, ceilings()); });
    measure("clip_l_14_costs",
            [&] { return model_costs(scale_.large, scale_.large_batch, scale_.large_chunk, ceilings()); });
    measure("f32_gemm_flops_per_second", [&] { return gemm_ceiling(scale_.gemm_side, DType::kFloat32); });
  }
  bool failed() const { return failed_; }

 private:
  /// A figure, or why there is none.
  template <class Figure>
  void measure(const std::string& name, const Figure& figure) {
    const auto begin = Clock::now();
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
    const std::string text = found.dump();
    fmt::print("{:34} {:5.1f} s  {}\n", name, seconds_since(begin), text.size() > 400 ? "(in the file)" : text);
    try {
      allocator(kDevice).release_cache();
    } catch (const std::exception& error) {
      fmt::print("the device's memory could not be given back: {}\n", error.what());
    }
    write_file_atomically(path_, results_.dump(2) + "\n");
  }

  double figure(const char* name, const char* part = nullptr) const {
    const Json& found = part && results_.at(name).is_object() ? results_.at(name).at(part) : results_.at(name);
    if (!found.is_number()) throw Error(fmt::format("it needs {}, which was not measured", name));
    return found.get<double>();
  }

  Ceilings ceilings() const { return {figure("bf16_gemm_flops_per_second"), figure("copy_bytes_per_second")}; }

  Json step(ClipSize size, std::int64_t samples, std::int64_t chunk) {
    train_step::Training training(train_step::make_clip(size, samples, chunk, {DType::kBFloat16, kDevice}));
    const train_step::Workload& workload = *training.workload;
    std::size_t inputs = 0;
    for (const auto& [name, tensor] : workload.inputs) inputs += tensor.bytes();
    double loss = 0;
    const PeakMeter meter(kDevice);
    const double seconds = seconds_of([&] { loss = training.step(kDevice); }, scale_.rounds);
    const double ceiling = figure("bf16_gemm_flops_per_second");
    return {{"batch", samples},
            {"chunk", chunk},
            {"dtype", "bfloat16"},
            {"seconds", seconds},
            {"pairs_per_second", static_cast<double>(samples) / seconds},
            {"flops", workload.flops},
            {"recomputed_flops", workload.recomputed_flops},
            // What the device did, the second forward included; and what the model needs, each product once.
            {"gemm_share", (workload.flops + workload.recomputed_flops) / seconds / ceiling},
            {"model_gemm_share", workload.flops / seconds / ceiling},
            {"peak_mebibytes", mebibytes(meter.peak())},
            {"of_which_inputs_mebibytes", mebibytes(inputs)},
            {"loss", loss}};
  }

  Json tiled_loss() {
    Tape tape;
    const Variable images = tape.leaf(random_tensor({scale_.tiled_rows, scale_.tiled_width}, 1));
    const Variable texts = tape.leaf(random_tensor({scale_.tiled_rows, scale_.tiled_width}, 2));
    const Variable log_scale = tape.leaf(Tensor::full({}, -1.0).to(kDevice));
    const PeakMeter meter(kDevice);
    const std::size_t before = allocator(kDevice).stats().current;
    kDevice.synchronize();
    const auto begin = Clock::now();
    Variable loss;
    {
      const Recording recording(tape);
      loss =
          losses::clip_loss(images, texts, {.scale = losses::Scale::from_log(log_scale), .tiles = ops::TileOptions{}});
    }
    tape.backward(loss);
    kDevice.synchronize();
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
  std::string folder = "bench/results", serve_name, request, dtype = "bfloat16";
  double seconds = 300;
  bool describe = false, tiny = false;
  app.add_option("--out", folder, "folder for gpu_bench.json")->capture_default_str();
  app.add_option("--seconds", seconds, "after which nothing new is begun")->capture_default_str();
  app.add_flag("--describe", describe, "print the versions of CUDA's libraries as JSON and end");
  app.add_flag("--tiny", tiny, "sizes that mean nothing, to try the program out");
  app.add_option("--serve", serve_name, "take steps of this workload on request, as bench_train_step does");
  app.add_option("--request", request, "with --serve: answer this and end");
  app.add_option("--dtype", dtype, "of its matrix products")
      ->check(CLI::IsMember(std::set<std::string>{"float32", "bfloat16"}));
  CLI11_PARSE(app, argc, argv);
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  try {
    if (Device::cuda_count() == 0) throw DeviceError("there is no CUDA device");
    if (describe) {
      Json versions{{"name", kDevice.name()}};
      for (const auto& [library, version] : kDevice.versions()) versions[library] = version;
      fmt::print("{}\n", versions.dump());
      return 0;
    }
    if (!serve_name.empty()) {
      const DType precision = dtype == "float32" ? DType::kFloat32 : DType::kBFloat16;
      const std::int64_t side = (tiny ? Scale::tiny() : Scale{}).gemm_side;
      std::istringstream given(request);
      train_step::serve(request.empty() ? std::cin : given, serve_name, {precision, kDevice},
                        [&] { return gemm_ceiling(side, precision); });
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
