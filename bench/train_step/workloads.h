#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tapecache/autograd/variable.h"
#include "tapecache/core/dtype.h"
#include "tapecache/core/tensor.h"
#include "tapecache/distributed/communicator.h"
#include "tapecache/gradcache/step.h"
#include "tapecache/models/clip.h"

/// The training steps that are measured: models of usual sizes on random data, no dropout.
namespace train_step {

/// A model, its data, and how to get a loss and gradients from them.
struct Workload {
  virtual ~Workload() = default;
  /// Adds the gradients of one step to the parameters and returns the loss.
  virtual double loss_and_gradients() = 0;

  std::string name;
  std::vector<tapecache::Parameter> parameters;
  std::map<std::string, tapecache::Tensor> inputs;  ///< by name, for a peer to read
  double flops = 0;             ///< of the matrix products of forward and backward, without what is computed twice
  double recomputed_flops = 0;  ///< of those that a cached step computes a second time
};

/// Where and how a workload runs. With `precision` kBFloat16 matrix products run under autocast.
struct Setting {
  tapecache::DType precision = tapecache::DType::kFloat32;
  tapecache::Device device = tapecache::Device::cpu();
  tapecache::distributed::Communicator* communicator = nullptr;       ///< of cached CLIP
  const tapecache::gradcache::ReductionOptions* reduction = nullptr;  ///< read in each step; null: as it is by itself
  std::function<void(const tapecache::gradcache::Progress&)> observer = {};  ///< of cached CLIP
};

/// All names for the host, in the order they are measured.
std::vector<std::string> workload_names();

/// Also makes, beside `workload_names`, CLIP of any batch and chunk: clip_{tiny,b_32,l_14}_b<batch>[_cached_<chunk>].
/// Throws ValueError for another name.
std::unique_ptr<Workload> make_workload(const std::string& name, const Setting& setting);

/// CLIP as OpenAI's: pre-norm, quick_gelu.
enum class ClipSize { kTiny, kBase32, kLarge14 };  ///< kTiny is for trying a program out

tapecache::models::ClipConfig clip_config(ClipSize size);

struct TowerFlops {
  double image, text;
};
/// Of the matrix products of one forward; attention's are counted as if no mask left any out.
TowerFlops forward_flops(const tapecache::models::ClipConfig& config, std::int64_t samples);

/// CLIP over pairs, direct where `chunk` is 0, else cached.
std::unique_ptr<Workload> make_clip(ClipSize size, std::int64_t samples, std::int64_t chunk, const Setting& setting);

}  // namespace train_step
