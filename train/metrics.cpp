#include "tapecache/train/metrics.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <vector>

#include <fmt/format.h>

#include "tapecache/autograd/tape.h"
#include "tapecache/ops/linear.h"
#include "tapecache/ops/reduce.h"
#include "tapecache/train/optimizer.h"

namespace tapecache::train {

namespace {

void require_features(const char* what, const Tensor& features, const Tensor& classes) {
  if (!features.defined() || features.rank() != 2 || features.size(0) < 1 || classes.dtype() != DType::kInt64 ||
      classes.shape() != Shape{features.size(0)}) {
    throw ShapeError(fmt::format("linear_probe: {} features are {} and classes {}, expected [n, width] and int64 [n]",
                                 what, describe(features), describe(classes)));
  }
  const Tensor host = classes.to(Device::cpu());
  const std::int64_t* label = host.data<std::int64_t>();
  for (std::int64_t i = 0; i < classes.numel(); ++i) {
    if (label[i] < 0) {
      throw ValueError(fmt::format("linear_probe: {} class {} is {}, expected at least 0", what, i, label[i]));
    }
  }
}

/// Columns shifted and scaled by the mean and deviation of `reference`'s; 0 where that one is constant.
Tensor standardized(const Tensor& features, const Tensor& reference) {
  const Tensor from = reference.to(Device::cpu()).to(DType::kFloat64);
  Tensor result = features.to(Device::cpu()).to(DType::kFloat64).clone();
  const std::int64_t rows = from.size(0), width = from.size(1);
  for (std::int64_t j = 0; j < width; ++j) {
    double mean = 0, squares = 0, low = from.data<double>()[j], high = low;
    for (std::int64_t i = 0; i < rows; ++i) {
      const double value = from.data<double>()[i * width + j];
      mean += value;
      low = std::min(low, value);
      high = std::max(high, value);
    }
    mean /= static_cast<double>(rows);
    for (std::int64_t i = 0; i < rows; ++i) {
      const double d = from.data<double>()[i * width + j] - mean;
      squares += d * d;
    }
    const double deviation = std::sqrt(squares / static_cast<double>(rows));
    // What differs by rounding alone is constant too: divided by its deviation, any other value would swamp the rest.
    const bool constant = high - low <= 1e-12 * std::max(std::abs(low), std::abs(high));
    const double factor = constant ? 0.0 : 1.0 / deviation;
    double* to = result.mutable_data<double>();
    for (std::int64_t i = 0; i < result.size(0); ++i) to[i * width + j] = (to[i * width + j] - mean) * factor;
  }
  return result;
}

}  // namespace

double linear_probe(const Tensor& features, const Tensor& classes, const Tensor& held_out_features,
                    const Tensor& held_out_classes, const LinearProbeOptions& options) {
  require_features("fitted", features, classes);
  require_features("held-out", held_out_features, held_out_classes);
  if (features.size(1) != held_out_features.size(1)) {
    throw ShapeError(
        fmt::format("linear_probe: features of width {} and {}", features.size(1), held_out_features.size(1)));
  }
  const Tensor targets = classes.to(Device::cpu());
  const std::int64_t* label = targets.data<std::int64_t>();
  const std::int64_t class_count = *std::max_element(label, label + targets.numel()) + 1;
  const Variable x = standardized(features, features);
  const Variable held_out = standardized(held_out_features, features);

  Parameter weight("weight", Tensor::zeros({class_count, features.size(1)}, DType::kFloat64));
  Parameter bias("bias", Tensor::zeros({class_count}, DType::kFloat64));
  AdamW optimizer({weight, bias}, {.weight_decay = options.weight_decay});
  for (int step = 0; step < options.steps; ++step) {
    Tape tape;
    Variable loss;
    {
      const Recording recording(tape);
      loss = ops::cross_entropy(ops::linear(x, weight, bias), targets);
    }
    tape.backward(loss);
    optimizer.step(options.learning_rate);
    optimizer.clear_gradients();
  }

  const NoRecording no_tape;
  const Tensor logits = ops::linear(held_out, weight, bias).value();
  const auto expected = held_out_classes.to_vector<std::int64_t>();
  std::int64_t right = 0;
  for (std::int64_t i = 0; i < logits.size(0); ++i) {
    const double* row = logits.data<double>() + i * class_count;
    const double* best = std::max_element(row, row + class_count);
    right += !std::isnan(*best) && best - row == expected[static_cast<std::size_t>(i)];
  }
  return static_cast<double>(right) / static_cast<double>(logits.size(0));
}

double majority_class_accuracy(const Tensor& classes, const Tensor& held_out_classes) {
  if (classes.numel() < 1 || held_out_classes.numel() < 1) {
    throw ShapeError("majority_class_accuracy: no classes, expected at least one on each side");
  }
  std::map<std::int64_t, std::int64_t> counts;
  for (std::int64_t c : classes.to_vector<std::int64_t>()) ++counts[c];
  const std::int64_t majority = std::max_element(counts.begin(), counts.end(), [](const auto& a, const auto& b) {
                                  return a.second < b.second;
                                })->first;
  const auto held_out = held_out_classes.to_vector<std::int64_t>();
  return static_cast<double>(std::count(held_out.begin(), held_out.end(), majority)) /
         static_cast<double>(held_out.size());
}

}  // namespace tapecache::train
