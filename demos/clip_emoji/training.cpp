#include "training.h"

#include <chrono>
#include <cmath>

#include <fmt/format.h>

#include "batch_sampler.h"
#include "tapecache/core/device.h"
#include "tapecache/core/random.h"
#include "tapecache/gradcache/grad_cache.h"
#include "tapecache/losses/losses.h"
#include "tapecache/train/optimizer.h"

namespace clip_emoji {

using tapecache::Parameter;
using tapecache::gradcache::StepResult;
using tapecache::gradcache::Tower;
using tapecache::models::Clip;
using tapecache::models::ClipConfig;
using tapecache::models::TextConfig;

namespace {

constexpr std::int64_t kWidth = 96;
constexpr double kDropout = 0.1;
constexpr double kMaxGradientNorm = 1.0;
constexpr double kWeightDecay = 0.1;

ClipConfig model_config(const Dataset& data) {
  ClipConfig config;
  config.vision.image_size = kImageSize;
  config.vision.patch_size = 8;
  config.vision.encoder = {.width = kWidth, .layers = 3, .heads = 4, .mlp_width = 4 * kWidth, .dropout = kDropout};
  config.text.vocabulary = data.tokenizer.vocabulary_size();
  config.text.max_tokens = kMaxTokens;
  config.text.pooling = TextConfig::Pooling::kLastToken;  // the tokeniser has no end-of-text token
  config.text.encoder = {.width = kWidth, .layers = 2, .heads = 4, .mlp_width = 4 * kWidth, .dropout = kDropout};
  config.projection_width = kWidth;
  return config;
}

StepResult take_step(Method method, std::span<const Tower> towers, const tapecache::gradcache::Loss& loss,
                     std::int64_t chunk, tapecache::distributed::Communicator* communicator) {
  switch (method) {
    case Method::kCached:
      return cached_step(towers, loss, {.cut = {chunk}, .communicator = communicator});
    case Method::kAccumulated:
      return accumulated_step(towers, loss, {{chunk}});
    case Method::kDirect:
      break;
  }
  return direct_step(towers, loss, {.communicator = communicator});
}

/// This process's share of a batch.
std::span<const std::int64_t> share_of(std::span<const std::int64_t> pairs,
                                       const tapecache::distributed::Communicator* communicator) {
  if (communicator == nullptr) return pairs;
  const auto begin_of = [&](int rank) {
    return pairs.size() * static_cast<std::size_t>(rank) / static_cast<std::size_t>(communicator->size());
  };
  const std::size_t begin = begin_of(communicator->rank());
  return pairs.subspan(begin, begin_of(communicator->rank() + 1) - begin);
}

std::vector<std::size_t> of_each_process(std::size_t bytes, tapecache::distributed::Communicator* communicator) {
  if (communicator == nullptr) return {bytes};
  const std::vector<std::int64_t> counts(static_cast<std::size_t>(communicator->size()), 1);
  tapecache::Tensor all = tapecache::Tensor::zeros({communicator->size()}, tapecache::DType::kInt64);
  communicator->all_gather(tapecache::Tensor::from({static_cast<std::int64_t>(bytes)}, {1}), all, counts);
  const std::vector<std::int64_t> found = all.to_vector<std::int64_t>();
  return {found.begin(), found.end()};
}

class Stopwatch {
 public:
  void start() { begin_ = std::chrono::steady_clock::now(); }
  void stop() { total_ += std::chrono::steady_clock::now() - begin_; }
  double seconds() const { return std::chrono::duration<double>(total_).count(); }

 private:
  std::chrono::steady_clock::time_point begin_;
  std::chrono::steady_clock::duration total_{};
};

}  // namespace

std::unique_ptr<Clip> initial_model(const TrainingSetup& setup) {
  auto model = std::make_unique<Clip>(model_config(*setup.data), setup.seed, setup.dtype);
  model->set_training(true);
  return model;
}

std::vector<Tower> towers_of(const Clip& model, const TrainingSetup& setup, std::span<const std::int64_t> pairs,
                             std::optional<std::uint32_t> step) {
  const PictureBatch::Shift shift{setup.seed, step.value_or(0)};
  const PictureBatch::Shift* vary = step ? &shift : nullptr;
  return {{"image", PictureBatch(setup.data, pairs, vary),
           [&model, dtype = setup.dtype](const PictureBatch& p) { return model.encode_image(p.tensor(dtype)); }},
          {"text", caption_batch(*setup.data, pairs, vary),
           [&model](const tapecache::models::TokenBatch& t) { return model.encode_text(t); }}};
}

tapecache::gradcache::Loss loss_of(const Clip& model) {
  return [&model](std::span<const tapecache::Variable> r) {
    using namespace tapecache::losses;
    return clip_loss(r[0], r[1], {.scale = Scale::from_log(model.logit_scale())});
  };
}

TrainedWay train(const TrainingSetup& setup, const WaySettings& way,
                 const std::function<void(const StepRecord&)>& on_step) {
  TrainedWay result;
  result.model = initial_model(setup);
  Clip& model = *result.model;
  const std::vector<Parameter>& parameters = model.parameters();
  Parameter log_scale = model.logit_scale();
  tapecache::train::AdamW optimizer(parameters, {.weight_decay = kWeightDecay});
  BatchSampler sampler(static_cast<std::int64_t>(setup.data->train.size()), way.batch, setup.seed);
  const auto loss = loss_of(model);
  auto* const communicator = way.method == Method::kAccumulated ? nullptr : setup.communicator;
  const std::int64_t warmup = std::max<std::int64_t>(1, way.steps / 10);

  tapecache::Device::cpu().reset_memory_peak();
  std::size_t peak = 0;
  Stopwatch watch;
  for (std::int64_t step = 0; step < way.steps; ++step) {
    watch.start();
    std::vector<std::int64_t> pairs = sampler.next();
    for (std::int64_t& pair : pairs) pair = setup.data->train[static_cast<std::size_t>(pair)];
    const auto number = static_cast<std::uint32_t>(step);
    const std::vector<Tower> towers = towers_of(model, setup, share_of(pairs, communicator), number);
    tapecache::begin_random_step(setup.seed, number);

    StepRecord record;
    record.step = step;
    if (way.compare_with_direct && step < kComparedSteps) {
      // Held out of the clock and of the peak: it is evidence, not training.
      watch.stop();
      peak = std::max(peak, tapecache::Device::cpu().memory_stats().peak);
      record.relative_gradient_difference =
          tapecache::gradcache::compare_steps(
              [&] { return take_step(Method::kDirect, towers, loss, 0, communicator); },
              [&] { return take_step(way.method, towers, loss, way.chunk, communicator); }, parameters)
              .relative_norm;
      tapecache::Device::cpu().reset_memory_peak();
      watch.start();
    }
    record.loss = take_step(way.method, towers, loss, way.chunk, communicator).loss.item();
    if (!std::isfinite(record.loss)) {
      throw tapecache::NumericalError(fmt::format("{}: the loss of step {} is {}", way.name, step, record.loss));
    }
    record.learning_rate = tapecache::train::warmup_cosine(step, warmup, way.steps, way.learning_rate);
    record.gradient_norm = tapecache::train::clip_gradient_norm(parameters, kMaxGradientNorm).item();
    optimizer.step(record.learning_rate);
    optimizer.clear_gradients();
    tapecache::losses::clamp_log_scale(log_scale);
    watch.stop();
    record.seconds = watch.seconds();
    result.records.push_back(record);
    on_step(record);
  }
  result.peak_bytes = of_each_process(std::max(peak, tapecache::Device::cpu().memory_stats().peak), setup.communicator);
  result.seconds = watch.seconds();
  return result;
}

std::size_t measure_peak(const TrainingSetup& setup, Method method, std::int64_t batch, std::int64_t chunk) {
  WaySettings way;
  way.name = "memory";
  way.method = method;
  way.batch = batch;
  way.chunk = chunk;
  way.steps = 1;
  TrainingSetup alone = setup;
  alone.communicator = nullptr;
  return train(alone, way, [](const StepRecord&) {}).peak_bytes.front();
}

}  // namespace clip_emoji
