#pragma once

#include <memory>
#include <string>

#include "tapecache/core/device.h"
#include "tapecache/train/optimizer.h"
#include "workloads.h"

namespace train_step {

inline constexpr double kLearningRate = 1e-4;
inline const tapecache::train::AdamWOptions kAdamW{.beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .weight_decay = 0.01};

/// A workload and its optimizer.
struct Training {
  std::unique_ptr<Workload> workload;
  tapecache::train::AdamW optimizer;

  Training(const std::string& name, const Setting& setting) : Training(make_workload(name, setting)) {}
  explicit Training(std::unique_ptr<Workload> work)
      : workload(std::move(work)), optimizer(workload->parameters, kAdamW) {}

  /// Forward, backward and an update, of which no work is left to do when it returns. The loss before the update.
  double step(tapecache::Device device = tapecache::Device::cpu()) {
    const double loss = workload->loss_and_gradients();
    optimizer.step(kLearningRate);
    optimizer.clear_gradients();
    if (!device.is_cpu()) device.synchronize();
    return loss;
  }
};

}  // namespace train_step
