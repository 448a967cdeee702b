// Training by cached steps, on one rank of a group that an MPI launcher started; see mpi_test.py.
#include <signal.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <exception>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "../require.h"
#include "tapecache/core/random.h"
#include "tapecache/distributed/mpi.h"
#include "tapecache/gradcache/step.h"
#include "tapecache/losses/losses.h"
#include "tapecache/models/clip.h"
#include "tapecache/train/optimizer.h"

namespace {

using namespace tapecache;
using namespace std::chrono_literals;
using distributed::Communicator;
using distributed::mpi_world;
using gradcache::Tower;
using test::require;

constexpr std::int64_t kBatch = 16, kSteps = 50;
constexpr std::uint64_t kSeed = 5;

models::Clip new_model(DType dtype) {
  const models::TransformerConfig encoder{.width = 16, .layers = 2, .heads = 2, .mlp_width = 32, .dropout = 0.1};
  models::ClipConfig config{
      .vision = {.image_size = 16, .patch_size = 4, .encoder = models::VisionEncoderConfig(encoder)},
      .text = {.vocabulary = 30,
               .max_tokens = 12,
               .pooling = models::TextConfig::Pooling::kLastToken,
               .encoder = encoder},
      .projection_width = 8};
  models::Clip model(config, 3, dtype);
  model.set_training(true);
  return model;
}

/// Samples [begin, end) of a step's batch.
struct Batch {
  Tensor images;
  models::TokenBatch texts;
};

Batch batch_of(std::int64_t step, std::int64_t begin, std::int64_t end) {
  std::vector<double> pixels;
  std::vector<std::vector<std::int32_t>> words;
  for (std::int64_t sample = begin; sample < end; ++sample) {
    std::mt19937 engine(static_cast<unsigned>(step * kBatch + sample));
    std::normal_distribution<double> draw;
    for (int i = 0; i < 3 * 16 * 16; ++i) pixels.push_back(draw(engine));
    words.emplace_back(1 + engine() % 12, static_cast<std::int32_t>(engine() % 30));
  }
  return {Tensor::from(pixels, {end - begin, 3, 16, 16}), models::TokenBatch::pad(words, 0, 12)};
}

/// How a training goes; `segments`: to the same bits.
struct Way {
  DType dtype = DType::kFloat64;
  bool shared_loss = false;
  std::int64_t segments = 0;
};

/// Where the samples of a rank begin: shares are uneven, and other ones in each step, but for whole segments.
std::int64_t begin_of(int rank, int size, std::int64_t step, const Way& way) {
  if (rank == 0) return 0;
  if (rank == size) return kBatch;
  return kBatch * rank / size + (way.segments > 0 ? 0 : (step + rank) % 2);
}

/// Called when the images of a chunk are encoded, which it may change, and in the loss.
struct Watch {
  std::function<void(std::int64_t step, Tensor& images)> encode = [](std::int64_t, Tensor&) {};
  std::function<void(std::int64_t step)> loss = [](std::int64_t) {};
  /// Whether a step that did not end well is taken again: what it threw, or why it was refused.
  std::function<bool(std::int64_t step, const std::string& why)> again = [](std::int64_t, const std::string&) {
    return false;
  };
};

bool without_gradients(const std::vector<Parameter>& parameters) {
  return std::none_of(parameters.begin(), parameters.end(), [](const Parameter& p) { return p.gradient().defined(); });
}

/// The parameters after the last step; `ranks` null: of one process that has the whole batch.
std::vector<Tensor> train(Communicator* ranks, const Way& way = {}, const Watch& watch = {}) {
  const models::Clip model = new_model(way.dtype);
  const std::vector<Parameter> parameters = model.parameters();
  // A large epsilon: what is 0 but for rounding stays small.
  train::AdamW optimizer(parameters, {.epsilon = 1e-3});
  for (std::int64_t step = 0; step < kSteps; ++step) {
    const int rank = ranks ? ranks->rank() : 0, size = ranks ? ranks->size() : 1;
    const Batch batch = batch_of(step, begin_of(rank, size, step, way), begin_of(rank + 1, size, step, way));
    const std::vector<Tower> towers = {
        {"image", batch.images.to(way.dtype),
         [&](Tensor images) {
           watch.encode(step, images);
           return model.encode_image(images);
         }},
        {"text", batch.texts, [&](const models::TokenBatch& texts) { return model.encode_text(texts); }}};
    const auto loss = [&](std::span<const Variable> r) {
      watch.loss(step);
      return losses::clip_loss(
          r[0], r[1],
          {.scale = losses::Scale::from_log(model.logit_scale()), .communicator = way.shared_loss ? ranks : nullptr});
    };
    gradcache::StepOptions options{.cut = {2}};
    options.communicator = ranks;
    options.shared_loss = way.shared_loss && ranks != nullptr;
    options.reproducible_segments = way.segments;
    options.reduction.bucket_bytes = 32768;  // a few of them
    for (;;) {
      begin_random_step(kSeed, static_cast<std::uint32_t>(step));
      const RandomState random = random_state();
      std::exception_ptr thrown;
      std::string why;
      try {
        const gradcache::StepResult result = gradcache::cached_step(towers, loss, options);
        if (result.status == gradcache::StepStatus::kDone) break;
        why = result.message;
      } catch (const std::exception& error) {
        thrown = std::current_exception();
        why = error.what();
      }
      if (!watch.again(step, why)) {
        if (thrown) std::rethrow_exception(thrown);
        require(false, why);
      }
      require(without_gradients(parameters), "gradients are left after: " + why);
      require(!thrown || random_state() == random, "the random state is another after: " + why);
    }
    train::clip_gradient_norm(parameters, 1.0);
    optimizer.step(1e-3);
    optimizer.clear_gradients();
  }
  std::vector<Tensor> values;
  for (const Parameter& parameter : parameters) values.push_back(parameter.value());
  return values;
}

/// NaN where either has one.
double largest_difference(const std::vector<Tensor>& left, const std::vector<Tensor>& right) {
  double largest = 0;
  for (std::size_t i = 0; i < left.size(); ++i) {
    const std::vector<double> a = left[i].to(DType::kFloat64).to_vector<double>();
    const std::vector<double> b = right[i].to(DType::kFloat64).to_vector<double>();
    for (std::size_t j = 0; j < a.size(); ++j) {
      const double difference = std::abs(a[j] - b[j]);
      if (std::isnan(difference) || difference > largest) largest = difference;
    }
  }
  return largest;
}

void require_alike(Communicator& ranks, const Way& way, double tolerance) {
  const double difference = largest_difference(train(nullptr, way), train(&ranks, way));
  require(difference <= tolerance, "parameters differ by " + std::to_string(difference * 1e12) + "e-12");
}

void train_alike() {
  const auto ranks = mpi_world(60s);
  require_alike(*ranks, {}, 1e-12);
  require_alike(*ranks, {.shared_loss = true}, 1e-12);
  // Three processes cannot share eight segments evenly.
  if (ranks->size() != 3) require_alike(*ranks, {.dtype = DType::kFloat32, .segments = 8}, 0);
  ranks->barrier();
  if (ranks->rank() == 0) std::printf("%d ranks, all right\n", ranks->size());
}

/// In step 3 on rank 1, when the first chunk is encoded, the loss is taken, or chunks are encoded again.
void goes_wrong(const std::string& phase, std::chrono::seconds limit, const std::function<void()>& what) {
  const auto ranks = mpi_world(limit);
  const bool here = ranks->rank() == 1;
  bool lossy = false;
  Watch watch;
  watch.encode = [&](std::int64_t step, Tensor&) {
    if (here && step == 3 && (phase == "forward" || (phase == "backward" && lossy))) what();
  };
  watch.loss = [&](std::int64_t step) {
    lossy = step == 3;
    if (here && lossy && phase == "loss") what();
  };
  train(ranks.get(), {}, watch);
  std::printf("rank %d went on\n", ranks->rank());
}

/// Rank 1 fails once in some steps, each time in another phase or by another fault. What all have caught is done again,
/// and the training ends as if nothing had been.
void recovers() {
  enum class Phase { kForward, kLoss, kBackward };
  enum class Fault { kThrows, kOutOfMemory, kNaN };
  struct Case {
    Phase phase;
    Fault fault;
    std::string text;
  };
  const std::map<std::int64_t, Case> cases = {
      {3, {Phase::kForward, Fault::kThrows, "out of tea"}},
      {8, {Phase::kLoss, Fault::kThrows, "out of tea"}},
      {13, {Phase::kBackward, Fault::kThrows, "out of tea"}},
      {18, {Phase::kForward, Fault::kOutOfMemory, "no room for tea"}},
      {23, {Phase::kLoss, Fault::kOutOfMemory, "no room for tea"}},
      {28, {Phase::kBackward, Fault::kOutOfMemory, "no room for tea"}},
      {33, {Phase::kForward, Fault::kNaN, "loss is nan"}},
      {34, {Phase::kForward, Fault::kThrows, "out of tea"}},  // the step after one that failed
  };
  const auto ranks = mpi_world(20s);
  std::map<std::int64_t, int> left, caught;
  for (const auto& [step, fault] : cases) left[step] = ranks->rank() == 1 ? 1 : 0;
  std::int64_t losses_taken_of = -1;
  const auto strike = [&](std::int64_t step, Phase phase, Tensor* images) {
    const auto found = cases.find(step);
    if (found == cases.end() || found->second.phase != phase || left[step] == 0) return;
    --left[step];
    if (found->second.fault == Fault::kThrows) throw ValueError("out of tea");
    if (found->second.fault == Fault::kOutOfMemory) throw OutOfMemory("no room for tea", 1, 2, 3);
    *images = Tensor::full(images->shape(), std::nan(""), images->dtype());
  };
  Watch watch;
  watch.encode = [&](std::int64_t step, Tensor& images) {
    strike(step, losses_taken_of == step ? Phase::kBackward : Phase::kForward, &images);
  };
  watch.loss = [&](std::int64_t step) {
    losses_taken_of = step;
    strike(step, Phase::kLoss, nullptr);
  };
  watch.again = [&](std::int64_t step, const std::string& why) {
    losses_taken_of = -1;
    require(why.find(cases.at(step).text) != std::string::npos, "another error than was thrown: " + why);
    return ++caught[step] == 1;
  };
  const std::vector<Tensor> alone = train(nullptr), together = train(ranks.get(), {}, watch);
  require(caught.size() == cases.size(), "every fault is met on every rank");
  require(largest_difference(alone, together) <= 1e-12, "parameters differ");
  ranks->barrier();
  if (ranks->rank() == 0) std::printf("%d ranks, all right\n", ranks->size());
}

}  // namespace

int main(int argc, char** argv) {
  const std::string role = argc > 1 ? argv[1] : "";
  const std::map<std::string, std::function<void()>> faults = {
      {"throws", [] { throw std::runtime_error("out of tea"); }},
      {"killed", [] { raise(SIGKILL); }},
      {"late", [] { std::this_thread::sleep_for(100s); }},
      {"late-by-20", [] { std::this_thread::sleep_for(20s); }},
  };
  try {
    if (role == "train") train_alike();
    else if (role == "recovers") recovers();
    else goes_wrong(argv[2], role == "late" ? 2s : role == "late-by-20" ? 5s : 20s, faults.at(role));
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 3;
  }
}
