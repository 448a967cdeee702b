#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tapecache/autograd/parameter.h"
#include "tapecache/core/dtype.h"
#include "tapecache/core/tensor.h"

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
  double flops = 0;  ///< of the matrix products of forward and backward, without what is computed twice
};

/// Where and how a workload runs. With `precision` kBFloat16 matrix products run under autocast.
struct Setting {
  tapecache::DType precision = tapecache::DType::kFloat32;
  tapecache::Device device = tapecache::Device::cpu();
};

/// All names for the host, in the order they are measured.
std::vector<std::string> workload_names();

/// Throws ValueError for a name that is not among `workload_names`.
std::unique_ptr<Workload> make_workload(const std::string& name, const Setting& setting);

enum class ClipSize { kTiny, kBase32, kLarge14 };  ///< kTiny is for trying a program out

/// CLIP over pairs, direct where `chunk` is 0, else cached.
std::unique_ptr<Workload> make_clip(ClipSize size, std::int64_t samples, std::int64_t chunk, const Setting& setting);

}  // namespace train_step
