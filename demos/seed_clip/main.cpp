// CLIP as a training script begins it: encoders of ViT-B/32's size, each with a projection of its pooled output, a loss
// that is a mean, a batch of 64 in chunks of 16, and Adam. Which way to cut the batch gives the gradient of the whole
// batch, and what does a linear classifier find in what each way has learned?
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <tapecache/tapecache.h>

#include "tapecache/core/files.h"
#include "tapecache/data/images/image_processor.h"
#include "tapecache/data/tokenizers/tokenizer.h"

using namespace tapecache;

namespace {

constexpr std::int64_t kSide = 224, kProjection = 512;

struct Options {
  std::filesystem::path drawings, tokenizer, out = "out/seed_clip";
  std::int64_t batch = 64, chunk = 16, steps = 8;
  double rate = 1e-4;
  int threads = 0;
  std::uint64_t seed = 1;
};

struct Drawing {
  std::filesystem::path file;
  std::string caption, kind;
};

/// Lines of a file, a caption and a kind, between tabs.
std::vector<Drawing> read_drawings(const std::filesystem::path& path) {
  std::ifstream in(path);
  std::vector<Drawing> drawings;
  for (std::string line; std::getline(in, line);) {
    const std::size_t first = line.find('\t'), second = line.find('\t', first + 1);
    if (first == line.npos || second == line.npos) {
      throw FileError(fmt::format("{}: line {} has no file, caption and kind", path.string(), drawings.size() + 1));
    }
    drawings.push_back({line.substr(0, first), line.substr(first + 1, second - first - 1), line.substr(second + 1)});
  }
  if (drawings.empty()) throw FileError(fmt::format("{}: no drawings", path.string()));
  return drawings;
}

/// [count, 3, side, side] between -1 and 1.
Tensor pictures(std::span<const Drawing> drawings) {
  Tensor result = Tensor::empty({static_cast<std::int64_t>(drawings.size()), 3, kSide, kSide});
  float* to = result.mutable_data<float>();
  for (const Drawing& drawing : drawings) {
    const data::Image image = data::read_image(drawing.file);
    if (image.width != kSide || image.height != kSide) {
      throw FileError(fmt::format("{}: is {} x {}, expected {} x {}", drawing.file.string(), image.width, image.height,
                                  kSide, kSide));
    }
    for (std::size_t channel = 0; channel < 3; ++channel) {
      for (std::size_t i = channel; i < image.pixels.size(); i += 3) {
        *to++ = static_cast<float>(image.pixels[i]) / 127.5f - 1;
      }
    }
  }
  return result;
}

models::TokenBatch tokens(const data::Tokenizer& tokenizer, std::span<const Drawing> drawings) {
  std::vector<std::vector<std::int32_t>> ids;
  for (const Drawing& drawing : drawings) ids.push_back(tokenizer.encode(drawing.caption, {.max_tokens = 77}).ids);
  return models::TokenBatch::pad(ids, tokenizer.pad_id());
}

class Encoders {
 public:
  Encoders(std::int64_t vocabulary, std::uint64_t seed)
      : builder_(seed),
        vision_(builder_.child("vision_model"), models::VisionConfig()),
        text_(builder_.child("text_model"), {.vocabulary = vocabulary}),
        image_projection_(builder_.child("visual_projection"), 768, kProjection, models::Init::normal(0.036), false),
        text_projection_(builder_.child("text_projection"), 512, kProjection, models::Init::normal(0.044), false),
        log_scale_(builder_.parameter("logit_scale", {}, models::Init::constant(std::log(1 / 0.07)))) {}

  const std::vector<Parameter>& parameters() const { return builder_.parameters(); }
  /// What a linear classifier is given: the pooled output, before its projection.
  Variable pooled(const Tensor& images) const { return vision_(images); }
  std::vector<gradcache::Tower> towers(const Tensor& images, const models::TokenBatch& texts) const {
    return {
        {"image", images, [this](const Tensor& x) { return ops::l2_normalize(image_projection_(vision_(x))); }},
        {"text", texts, [this](const models::TokenBatch& x) { return ops::l2_normalize(text_projection_(text_(x))); }}};
  }
  gradcache::Loss loss() const {
    return [this](const gradcache::Representations& r) {
      return losses::clip_loss(r[0], r[1], {.scale = losses::Scale::from_log(log_scale_)});
    };
  }

 private:
  models::Builder builder_;
  models::VisionTransformer vision_;
  models::TextTransformer text_;
  models::Linear image_projection_, text_projection_;
  Parameter log_scale_;
};

enum class Way { kDirect, kCached, kAccumulated };
constexpr std::pair<Way, const char*> kWays[]{
    {Way::kDirect, "direct"}, {Way::kCached, "gradcache"}, {Way::kAccumulated, "accumulation"}};

gradcache::StepResult take_step(Way way, std::span<const gradcache::Tower> towers, const gradcache::Loss& loss,
                                std::int64_t chunk) {
  switch (way) {
    case Way::kDirect:
      return gradcache::direct_step(towers, loss);
    case Way::kCached:
      return gradcache::cached_step(towers, loss, {.cut = {chunk}});
    case Way::kAccumulated:
      return gradcache::accumulated_step(towers, loss, {.chunk_sizes = {chunk}});
  }
  throw ValueError("seed_clip: no such way");
}

/// The loss over the whole batch, whichever way it was trained.
double whole_loss(const Encoders& encoders, const Tensor& images, const models::TokenBatch& texts, std::int64_t chunk) {
  const gradcache::StepResult result =
      gradcache::cached_step(encoders.towers(images, texts), encoders.loss(), {.cut = {chunk}});
  for (Parameter p : encoders.parameters()) p.clear_gradient();
  return result.loss.item();
}

/// Standardised features, by the means and deviations of `reference`.
Tensor standardised(const Tensor& features, const Tensor& reference) {
  const std::int64_t width = features.size(1), count = reference.size(0);
  const auto from = reference.to_vector<float>();
  auto values = features.to_vector<float>();
  for (std::int64_t c = 0; c < width; ++c) {
    double mean = 0, square = 0;
    for (std::int64_t i = 0; i < count; ++i) mean += from[static_cast<std::size_t>(i * width + c)];
    mean /= static_cast<double>(count);
    for (std::int64_t i = 0; i < count; ++i) {
      square += std::pow(from[static_cast<std::size_t>(i * width + c)] - mean, 2);
    }
    const double deviation = std::sqrt(square / static_cast<double>(count)) + 1e-6;
    for (std::int64_t i = 0; i < features.size(0); ++i) {
      float& value = values[static_cast<std::size_t>(i * width + c)];
      value = static_cast<float>((value - mean) / deviation);
    }
  }
  return Tensor::from(values, features.shape());
}

Tensor features_of(const Encoders& encoders, const Tensor& images, std::int64_t chunk) {
  std::vector<Variable> parts;
  for (std::int64_t begin = 0; begin < images.size(0); begin += chunk) {
    parts.push_back(encoders.pooled(images.slice(begin, std::min(begin + chunk, images.size(0)))));
  }
  return ops::concat(std::span<const Variable>(parts), 0).value();
}

/// Share of the second half of the pictures that a linear classifier sorts right that learned from the first.
double linear_evaluation(const Encoders& encoders, const Tensor& images, const std::vector<std::int32_t>& kinds,
                         int kind_count, std::int64_t chunk) {
  const Tensor features = features_of(encoders, images, chunk);
  const std::int64_t half = features.size(0) / 2, rest = features.size(0) - half;
  const Tensor training = features.slice(0, half);
  const Tensor known = standardised(training, training),
               unknown = standardised(features.slice(half, half + rest), training);
  const std::vector<std::int32_t> right(kinds.begin() + half, kinds.end());
  const Tensor labels = Tensor::from(std::vector<std::int32_t>(kinds.begin(), kinds.begin() + half), {half});
  const models::Builder builder(1);
  const models::Linear head(builder.child("head"), features.size(1), kind_count, models::Init::normal(0.01));
  train::AdamW optimizer(builder.parameters(), {.weight_decay = 0.1});
  for (int step = 0; step < 200; ++step) {
    Tape tape;
    Variable loss;
    {
      const Recording recording(tape);
      loss = ops::cross_entropy(head(known), labels);
    }
    tape.backward(loss);
    optimizer.step(1e-2);
    optimizer.clear_gradients();
  }
  const auto logits = head(unknown).value().to_vector<float>();
  std::int64_t hits = 0;
  for (std::size_t i = 0; i < right.size(); ++i) {
    const float* of_row = logits.data() + i * static_cast<std::size_t>(kind_count);
    hits += std::max_element(of_row, of_row + kind_count) - of_row == right[i];
  }
  return static_cast<double>(hits) / static_cast<double>(right.size());
}

int run(const Options& options) {
  if (options.threads > 0) set_thread_count(options.threads);
  const std::vector<Drawing> drawings = read_drawings(options.drawings);
  if (static_cast<std::int64_t>(drawings.size()) < options.batch + 4) {
    throw FileError(fmt::format("{}: has {} drawings, expected more than the batch, {}", options.drawings.string(),
                                drawings.size(), options.batch));
  }
  const data::Tokenizer tokenizer = data::Tokenizer::load(options.tokenizer);
  const std::span batch = std::span(drawings).first(static_cast<std::size_t>(options.batch));
  const std::span others = std::span(drawings).subspan(static_cast<std::size_t>(options.batch));
  const Tensor images = pictures(batch), other_images = pictures(others);
  const models::TokenBatch texts = tokens(tokenizer, batch);
  std::map<std::string, std::int32_t> numbers;
  std::vector<std::int32_t> kinds;
  for (const Drawing& drawing : others) {
    kinds.push_back(numbers.try_emplace(drawing.kind, static_cast<std::int32_t>(numbers.size())).first->second);
  }

  const auto fresh = [&] { return Encoders(tokenizer.vocabulary_size(), options.seed); };
  fmt::print("gradients of {} pairs in chunks of {}, against the whole batch's:\n", options.batch, options.chunk);
  std::string json =
      fmt::format("{{\n  \"batch\": {}, \"chunk\": {}, \"steps\": {},\n", options.batch, options.chunk, options.steps);
  {
    const Encoders encoders = fresh();
    const auto towers = encoders.towers(images, texts);
    for (const auto& [way, name] : kWays) {
      if (way == Way::kDirect) continue;
      const gradcache::Comparison found = gradcache::compare_steps(
          [&] { return take_step(Way::kDirect, towers, encoders.loss(), options.chunk); },
          [&, &way = way] { return take_step(way, towers, encoders.loss(), options.chunk); }, encoders.parameters());
      fmt::print("  {:<12} differ by {:.1e} of their norm; loss {:.6f}, the whole batch's {:.6f}\n", name,
                 found.relative_norm, found.loss_other, found.loss_reference);
      json += fmt::format("  \"{}_gradient_difference\": {:.3e},\n", name, found.relative_norm);
    }
  }
  const int kind_count = static_cast<int>(numbers.size());
  const auto evaluated = [&](const Encoders& encoders) {
    return linear_evaluation(encoders, other_images, kinds, kind_count, options.chunk);
  };
  const double untrained = evaluated(fresh());
  fmt::print(
      "{} steps each; a linear classifier of {} kinds over the pictures' pooled output: {:.3f} right untrained\n",
      options.steps, kind_count, untrained);
  json += fmt::format("  \"untrained_linear\": {:.4f}", untrained);
  for (const auto& [way, name] : kWays) {
    const Encoders encoders = fresh();
    train::AdamW adam(encoders.parameters(), {.weight_decay = 0});
    const auto towers = encoders.towers(images, texts);
    const auto begin = std::chrono::steady_clock::now();
    for (std::int64_t step = 0; step < options.steps; ++step) {
      begin_random_step(options.seed, static_cast<std::uint32_t>(step));
      take_step(way, towers, encoders.loss(), options.chunk);
      adam.step(options.rate);
      adam.clear_gradients();
    }
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    const double loss = whole_loss(encoders, images, texts, options.chunk), linear = evaluated(encoders);
    fmt::print("  {:<12} {:5.1f} s a step; loss over the whole batch then {:.4f}; linear {:.3f}\n", name,
               seconds / static_cast<double>(options.steps), loss, linear);
    json += fmt::format(",\n  \"{0}_loss\": {1:.6f}, \"{0}_linear\": {2:.4f}", name, loss, linear);
  }
  const auto results = options.out / "results.json";
  write_file_atomically(results, json + "\n}\n");
  fmt::print("{}\n", results.string());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Options o;
  CLI::App app{"Compares three ways to train a CLIP of ViT-B/32's size on a batch in chunks."};
  app.add_option("--drawings", o.drawings, "Lines of a 224 x 224 picture's file, caption and kind, between tabs")
      ->required();
  app.add_option("--tokenizer", o.tokenizer, "Folder of a tokenizer whose last token ends a text")->required();
  app.add_option("--out", o.out, "Folder for results.json")->capture_default_str();
  app.add_option("--batch", o.batch, "Pairs of the batch")->check(CLI::Range(2, 4096))->capture_default_str();
  app.add_option("--chunk", o.chunk, "Pairs of a chunk")->check(CLI::Range(1, 4096))->capture_default_str();
  app.add_option("--steps", o.steps, "Steps of each way")->check(CLI::Range(1, 100000))->capture_default_str();
  app.add_option("--rate", o.rate, "Learning rate")->check(CLI::Range(1e-9, 1.0))->capture_default_str();
  app.add_option("--threads", o.threads, "Threads to compute with (default: one a processor)")
      ->check(CLI::Range(1, 1024));
  app.add_option("--seed", o.seed, "Seed of the weights")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  std::setvbuf(stdout, nullptr, _IOLBF, 0);  // lines are seen as they come, in a file too
  try {
    return run(o);
  } catch (const std::exception& e) {
    fmt::print(stderr, "seed_clip: {}\n", e.what());
    return 1;
  }
}
