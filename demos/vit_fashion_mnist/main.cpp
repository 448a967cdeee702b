// A vision transformer that learns Fashion-MNIST from scratch, as one learns to train with this library: pictures to a
// tensor, a model of two parts, a step on a tape, an evaluation without one.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <tapecache/tapecache.h>

#include "confusion.h"
#include "idx_file.h"
#include "program/progress.h"
#include "tapecache/core/files.h"
#include "tapecache/data/batch_order.h"

using namespace tapecache;
using namespace vit_fashion_mnist;

namespace {

struct Options {
  std::filesystem::path data = "/usr/share/datasets/fashion-mnist", out = "out/vit_fashion_mnist";
  int epochs = 5, batch = 64, threads = 0;
  double rate = 1.5e-3;
  std::uint64_t seed = 1;
};

struct Classifier {
  models::Builder builder;
  models::VisionTransformer body;
  models::Linear head;

  Classifier(std::int64_t side, std::uint64_t seed)
      : builder(seed),
        body(builder.child("vision"), {.image_size = side,
                                       .patch_size = 4,
                                       .channels = 1,
                                       .pooling = models::VisionConfig::Pooling::kMean,
                                       .encoder = {.width = 64, .layers = 4, .heads = 4, .mlp_width = 128}}),
        head(builder.child("head"), 64, kClasses, models::Init::normal(0.02)) {}

  Variable operator()(const Tensor& images) const { return head(body(images)); }
};

/// These pictures as [count, 1, side, side] of mean 0 and deviation 1; each mirrored or not, as the seed says.
Tensor pictures(const LabelledImages& set, std::span<const std::int64_t> rows, const RandomKey* mirror = nullptr) {
  constexpr float kMean = 0.2860f, kDeviation = 0.3530f;
  const std::int64_t side = set.side, count = static_cast<std::int64_t>(rows.size());
  Tensor result = Tensor::empty({count, 1, side, side});
  float* to = result.mutable_data<float>();
  for (const std::int64_t row : rows) {
    const bool mirrored = mirror && (mirror->draw(static_cast<std::uint32_t>(row), 0)[0] & 1) != 0;
    const std::uint8_t* from = set.pixels.data() + row * side * side;
    for (std::int64_t y = 0; y < side; ++y, from += side) {
      for (std::int64_t x = 0; x < side; ++x) {
        *to++ = (static_cast<float>(from[mirrored ? side - 1 - x : x]) / 255.0f - kMean) / kDeviation;
      }
    }
  }
  return result;
}

Tensor classes(const LabelledImages& set, std::span<const std::int64_t> rows) {
  std::vector<std::int32_t> of_rows;
  of_rows.reserve(rows.size());
  for (const std::int64_t row : rows) of_rows.push_back(set.classes[static_cast<std::size_t>(row)]);
  return Tensor::from(of_rows, {static_cast<std::int64_t>(rows.size())});
}

void fit(const Classifier& model, const LabelledImages& set, const Options& options) {
  data::BatchOrder order(set.count, options.batch, options.seed);
  const std::int64_t steps = order.steps_per_epoch() * options.epochs;
  train::AdamW optimizer(model.builder.parameters(), {.weight_decay = 0.05});
  program::Progress progress("train", steps);
  double mean_loss = 0;
  for (std::int64_t step = 0; step < steps; ++step) {
    const std::vector<std::int64_t> rows = order.rows(step);
    const RandomKey mirror{options.seed, static_cast<std::uint32_t>(step / order.steps_per_epoch())};
    begin_random_step(options.seed, static_cast<std::uint32_t>(step));
    Tape tape;
    Variable loss;
    {
      const Recording recording(tape);
      loss = ops::cross_entropy(model(pictures(set, rows, &mirror)), classes(set, rows));
    }
    tape.backward(loss);
    train::clip_gradient_norm(model.builder.parameters(), 1.0);
    optimizer.step(train::warmup_cosine(step, steps / 20, steps, options.rate));
    optimizer.clear_gradients();
    mean_loss += (loss.value().item() - mean_loss) / static_cast<double>(std::min<std::int64_t>(step + 1, 100));
    progress.update(step + 1, fmt::format("loss {:.3f}", mean_loss));
  }
}

Confusion evaluate(const Classifier& model, const LabelledImages& set) {
  constexpr std::int64_t kBatch = 500;
  model.builder.set_training(false);
  Confusion confusion;
  std::vector<std::int64_t> rows;
  for (std::int64_t begin = 0; begin < set.count; begin += kBatch) {
    rows.clear();
    for (std::int64_t row = begin; row < std::min(begin + kBatch, set.count); ++row) rows.push_back(row);
    const auto logits = model(pictures(set, rows)).value().to_vector<float>();
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const float* of_row = logits.data() + i * kClasses;
      confusion.add(set.classes[static_cast<std::size_t>(rows[i])],
                    static_cast<int>(std::max_element(of_row, of_row + kClasses) - of_row));
    }
  }
  model.builder.set_training(true);
  return confusion;
}

int run(const Options& options) {
  if (options.threads > 0) set_thread_count(options.threads);
  const LabelledImages training = read_labelled_images(options.data, "train", kClasses);
  const LabelledImages test = read_labelled_images(options.data, "t10k", kClasses);
  if (training.side != test.side) {
    throw FileError(fmt::format("{}: pictures for training have sides of {}, those of the test {}",
                                options.data.string(), training.side, test.side));
  }
  if (options.batch > training.count) {
    throw ValueError(fmt::format("--batch is {}, there are {} pictures", options.batch, training.count));
  }
  const auto begin = std::chrono::steady_clock::now();
  const Classifier model(training.side, options.seed);
  fit(model, training, options);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  const Confusion confusion = evaluate(model, test);
  const auto picture = options.out / "confusion.svg", weights = options.out / "model.safetensors";
  write_file_atomically(picture, confusion_svg(confusion));
  models::save_weights(weights, model.builder);
  fmt::print("{} epochs in {}: {:.2f} % of {} test pictures right\n{}\n{}\n", options.epochs,
             program::clock_text(seconds), 100 * confusion.accuracy(), confusion.total(), picture.string(),
             weights.string());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Options o;
  CLI::App app{"Trains a small vision transformer on Fashion-MNIST, and draws what it takes for what."};
  app.add_option("--data", o.data, "Folder of the four .gz files (Debian: dataset-fashion-mnist)")
      ->capture_default_str();
  app.add_option("--out", o.out, "Folder for confusion.svg and model.safetensors")->capture_default_str();
  app.add_option("--epochs", o.epochs, "Times that each picture is seen")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--batch", o.batch, "Pictures a step")->check(CLI::Range(1, 60000))->capture_default_str();
  app.add_option("--rate", o.rate, "Largest learning rate")->check(CLI::Range(1e-9, 1.0))->capture_default_str();
  app.add_option("--threads", o.threads, "Threads to compute with (default: one a processor)")
      ->check(CLI::Range(1, 1024));
  app.add_option("--seed", o.seed, "Seed of weights, order and mirroring")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  try {
    return run(o);
  } catch (const std::exception& e) {
    fmt::print(stderr, "vit_fashion_mnist: {}\n", e.what());
    return 1;
  }
}
