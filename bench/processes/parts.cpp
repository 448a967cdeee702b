// What a step of several processes is made of, each part alone, for `cost_model.py`: seconds of CLIP ViT-B/32's
// forwards and backwards, of the loss, whole and a rank's part of a shared one, and of AdamW. Prints JSON.

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <functional>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "../timing.h"
#include "../train_step/training.h"
#include "pretended.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/core/parallel_for.h"
#include "tapecache/losses/losses.h"
#include "tapecache/ops/normalize.h"

namespace {

using namespace tapecache;
using Json = nlohmann::ordered_json;

struct Options {
  std::int64_t chunk = 16;
  std::vector<std::int64_t> samples = {4096, 16384};
  int threads = 1, rounds = 3, ranks = 32;
  bool tiny = false;
};

double seconds_of(int rounds, const std::function<void()>& work) {
  const std::vector<std::function<void()>> runs{work};
  return time_in_turn(runs, rounds).seconds(0);
}

void backward_of(const std::function<Variable()>& work) {
  Tape tape;
  Variable value;
  {
    const Recording recording(tape);
    value = work();
  }
  const std::vector<Variable> outputs{value};
  const std::vector<Tensor> seeds{Tensor::full(value.shape(), 1e-3, value.dtype())};
  tape.backward(outputs, seeds);
}

/// Seconds a sample of a tower: of a forward that keeps no tape, and of one that does with its backward.
Json tower(const Options& options, const std::function<Variable()>& encode) {
  const auto chunk = static_cast<double>(options.chunk);
  return {{"forward", seconds_of(options.rounds, [&] { encode(); }) / chunk},
          {"backward", seconds_of(options.rounds, [&] { backward_of(encode); }) / chunk}};
}

/// Seconds of the loss over so many pairs and its gradients, of all rows or of one rank's.
double loss_seconds(const Options& options, std::int64_t rows, std::int64_t width,
                    distributed::Communicator* communicator) {
  std::vector<Tensor> values;
  for (const double factor : {0.37, 0.71}) {
    Tensor side = Tensor::empty({rows, width});
    float* const p = side.mutable_data<float>();
    for (std::int64_t i = 0; i < side.numel(); ++i)
      p[i] = static_cast<float>(i * 7919 % 1009) - 504.0f * static_cast<float>(factor);
    values.push_back(ops::l2_normalize(side).value());
  }
  const Parameter images("images", values[0]), texts("texts", values[1]);
  return seconds_of(options.rounds, [&] {
    backward_of([&] { return losses::clip_loss(images, texts, {.scale = 20.0, .communicator = communicator}); });
  });
}

Json measure(const Options& options) {
  set_thread_count(options.threads);
  const auto size = options.tiny ? train_step::ClipSize::kTiny : train_step::ClipSize::kBase32;
  const models::ClipConfig config = train_step::clip_config(size);
  Json report{{"model", options.tiny ? "tiny" : "ViT-B/32"},
              {"threads", options.threads},
              {"chunk", options.chunk},
              {"width", config.projection_width}};
  {
    train_step::Training training(train_step::make_clip(size, options.chunk, 0, {}));
    const models::Clip clip(config, 1);
    const auto& inputs = training.workload->inputs;
    report["image"] = tower(options, [&] { return clip.encode_image(inputs.at("images")); });
    report["text"] = tower(options, [&] { return clip.encode_text({inputs.at("ids"), {}}); });
    for (const char* const side : {"image", "text"}) report[side]["gradient_bytes"] = Json::array();
    for (const Parameter& p : clip.parameters()) {
      if (p.name() == clip.logit_scale().name()) continue;
      const bool of_text = p.name().starts_with("text");
      report[of_text ? "text" : "image"]["gradient_bytes"].push_back(p.value().bytes());
    }
    training.workload->loss_and_gradients();
    report["optimizer"] = seconds_of(options.rounds, [&] { training.optimizer.step(train_step::kLearningRate); });
  }
  Json losses = Json::array();
  for (const std::int64_t pairs : options.samples) {
    bench_processes::Pretended ranks(options.ranks);
    losses.push_back({{"pairs", pairs},
                      {"whole", loss_seconds(options, pairs, config.projection_width, nullptr)},
                      {"ranks", options.ranks},
                      {"shared", loss_seconds(options, pairs / options.ranks, config.projection_width, &ranks)}});
  }
  report["loss"] = losses;
  return report;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app{"The parts of a training step of several processes"};
  app.add_option("--chunk", options.chunk, "Pairs of a chunk")->check(CLI::Range(1, 1 << 16))->capture_default_str();
  app.add_option("--samples", options.samples, "Pairs of the loss")->check(CLI::Range(32, 1 << 16))->delimiter(',');
  app.add_option("--ranks", options.ranks, "Ranks that share the loss")
      ->check(CLI::Range(2, 1024))
      ->capture_default_str();
  app.add_option("--threads", options.threads, "Threads to compute with")->check(CLI::Range(1, 1024));
  app.add_option("--rounds", options.rounds, "Times that a part is timed")->check(CLI::Range(1, 100));
  app.add_flag("--tiny", options.tiny, "A tiny model, to try the program out");
  CLI11_PARSE(app, argc, argv);
  try {
    fmt::print("{}\n", measure(options).dump(2));
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_step_parts: {}\n", error.what());
    return 1;
  }
}
