#pragma once

#include "tapecache/core/forward_context.h"

namespace tapecache::testing {

/// A context in which nothing is as a thread begins with. The fields are bound by name, so that this does not compile
/// once there is one more: it belongs here too, and then the tests see whether second forwards get it.
inline ForwardContext odd_context() {
  ForwardContext context;
  auto& [random, autocast, anomaly_mode, recompute, partial_batch] = context;
  auto& [key, first_sample, samples, sample_ids] = random;
  key = {.seed = 5, .step = 6, .call = 7};
  first_sample = 100;
  samples = 3;
  sample_ids = Tensor::from<std::int64_t>({102, 100, 101}, {3});
  autocast = DType::kBFloat16;
  anomaly_mode = true;
  recompute = false;  // of a first forward; `repeated` sets it
  partial_batch = true;
  return context;
}

}  // namespace tapecache::testing
