#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "dataset.h"
#include "tapecache/distributed/communicator.h"
#include "tapecache/gradcache/step.h"
#include "tapecache/models/clip.h"

namespace clip_emoji {

enum class Method { kDirect, kCached, kAccumulated };

/// Steps at the beginning of a way whose gradient is also compared with the direct one.
inline constexpr std::int64_t kComparedSteps = 20;

/// How one way trains.
struct WaySettings {
  std::string name;
  Method method = Method::kDirect;
  std::int64_t batch = 0;
  std::int64_t chunk = 0;  ///< unused by kDirect
  std::int64_t steps = 0;
  double learning_rate = 0;
  bool compare_with_direct = false;
};

struct StepRecord {
  std::int64_t step = 0;  ///< from 0
  double loss = 0;
  double learning_rate = 0;
  double gradient_norm = 0;
  std::optional<double> relative_gradient_difference;
  double seconds = 0;  ///< of training since the first step, comparisons left out
};

struct TrainedWay {
  std::unique_ptr<tapecache::models::Clip> model;
  std::vector<StepRecord> records;
  std::vector<std::size_t> peak_bytes;  ///< of each process
  double seconds = 0;
};

/// What is the same for all ways.
struct TrainingSetup {
  std::shared_ptr<const Dataset> data;
  std::uint64_t seed = 0;
  tapecache::DType dtype = tapecache::DType::kFloat32;
  tapecache::distributed::Communicator* communicator = nullptr;  ///< null: this process is alone
};

/// A model with the initial weights that every way starts from.
std::unique_ptr<tapecache::models::Clip> initial_model(const TrainingSetup& setup);

/// One batch's towers for a model. Pictures and captions are varied by (seed, step) where `step` is given.
std::vector<tapecache::gradcache::Tower> towers_of(const tapecache::models::Clip& model, const TrainingSetup& setup,
                                                   std::span<const std::int64_t> pairs,
                                                   std::optional<std::uint32_t> step);

/// The symmetric contrastive loss with the model's temperature.
tapecache::gradcache::Loss loss_of(const tapecache::models::Clip& model);

/// Trains one way. `on_step` sees every record as it is made. Several processes share each batch, but for plain
/// accumulation, which each does for itself.
TrainedWay train(const TrainingSetup& setup, const WaySettings& way,
                 const std::function<void(const StepRecord&)>& on_step);

/// Most bytes in use during one step of a fresh model at this batch, with its weights and optimiser state, in one
/// process.
std::size_t measure_peak(const TrainingSetup& setup, Method method, std::int64_t batch, std::int64_t chunk);

}  // namespace clip_emoji
