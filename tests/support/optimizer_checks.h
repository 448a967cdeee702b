#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "devices.h"
#include "tapecache/train/optimizer.h"
#include "train_checks.h"

/// Optimisers on the device under test.
namespace tapecache::testing {

using MakeOptimizer = std::function<std::unique_ptr<train::Optimizer>(std::vector<Parameter>)>;

inline const MakeOptimizer kOptimizers[] = {
    [](auto p) { return std::make_unique<train::AdamW>(p, train::AdamWOptions{.weight_decay = 0.1}); },
    [](auto p) { return std::make_unique<train::Sgd>(p, train::SgdOptions{.momentum = 0.9, .weight_decay = 0.1}); },
};

/// Arrays that end within blocks of the update, fill several, and are smaller than a warp; and two types in turn.
inline std::vector<Parameter> mixed_parameters() {
  std::vector<Parameter> parameters;
  const std::pair<Shape, DType> arrays[] = {{{37, 41}, DType::kFloat32},   {{3}, DType::kFloat32},
                                            {{200, 301}, DType::kFloat32}, {{0}, DType::kFloat32},
                                            {{5}, DType::kFloat64},        {{170, 99}, DType::kFloat64},
                                            {{}, DType::kFloat32},         {{19}, DType::kFloat32}};
  for (const auto& [shape, dtype] : arrays) {
    const std::uint64_t seed = parameters.size();
    parameters.emplace_back("p" + std::to_string(seed), random_values(shape, seed, dtype));
  }
  return parameters;
}

inline void move(std::span<const Parameter> parameters, Device device) {
  for (Parameter p : parameters) p.move_to(device);
}

/// 0 on the CPU itself.
inline double tolerance_of(DType dtype) {
  if (kDevice.is_cpu()) return 0;
  return dtype == DType::kFloat64 ? 1e-13 : 1e-6;
}

/// What is on the device under test, beside the same on the CPU.
inline void check_alike(std::span<const Parameter> there, std::span<const Parameter> here) {
  for (std::size_t i = 0; i < here.size(); ++i) {
    BOOST_TEST((there[i].value().device() == kDevice));
    BOOST_TEST(max_difference(there[i].value(), here[i].value()) <= tolerance_of(here[i].value().dtype()),
               here[i].name());
  }
}

}  // namespace tapecache::testing
