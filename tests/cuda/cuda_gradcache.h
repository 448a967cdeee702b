#pragma once

#include <span>
#include <utility>
#include <vector>

#include "cuda_device.h"
#include "gradcache_checks.h"

/// What the tests of the cached step on a CUDA device share.
namespace tapecache::testing {

inline Encoder moved(Encoder encoder) {
  for (Parameter p : encoder.parameters()) p.move_to(kCuda);
  return encoder;
}

inline Tensor values_there(const Shape& shape, std::uint64_t seed, DType dtype = DType::kFloat64) {
  return random_values(shape, seed, dtype).to(kCuda);
}

inline gradcache::StepOptions there(std::vector<std::int64_t> chunk_sizes = {}) {
  gradcache::StepOptions options{.cut = gradcache::ChunkSizes(std::move(chunk_sizes))};
  options.device = kCuda;
  return options;
}

inline std::vector<Tensor> gradients_of(std::span<const Parameter> parameters) {
  std::vector<Tensor> gradients;
  for (Parameter p : parameters) {
    gradients.push_back(p.gradient());
    p.clear_gradient();
  }
  return gradients;
}

}  // namespace tapecache::testing
