#pragma once

#include <algorithm>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "checks.h"
#include "tapecache/autograd/variable.h"

namespace tapecache::testing {

/// A matrix, a vector, a scalar and a stack of matrices.
inline std::vector<Parameter> some_parameters(DType dtype = DType::kFloat64) {
  return {{"matrix", random_values({3, 4}, 1, dtype)},
          {"vector", random_values({5}, 2, dtype)},
          {"scalar", random_values({}, 3, dtype)},
          {"stack", random_values({2, 2, 3}, 4, dtype)}};
}

inline Tensor gradient_of(const Parameter& p, int step) {
  return random_values(p.value().shape(), 1000 + 10 * static_cast<std::uint64_t>(step) + p.name().size(),
                       p.value().dtype())
      .to(p.value().device());
}

inline void give_gradients(std::span<const Parameter> parameters, int step) {
  for (Parameter p : parameters) p.mutable_gradient() = gradient_of(p, step);
}

inline std::vector<Tensor> copies(std::span<const Parameter> parameters) {
  std::vector<Tensor> values;
  for (const Parameter& p : parameters) values.push_back(p.value().clone());
  return values;
}

inline std::map<std::string, Tensor> copies(const std::map<std::string, Tensor>& tensors) {
  std::map<std::string, Tensor> result;
  for (const auto& [name, tensor] : tensors) result.emplace(name, tensor.clone());
  return result;
}

inline bool same(std::span<const Parameter> parameters, const std::vector<Tensor>& values) {
  bool all = parameters.size() == values.size();
  for (std::size_t i = 0; all && i < values.size(); ++i) all = same_bits(parameters[i].value(), values[i]);
  return all;
}

inline bool same(const std::map<std::string, Tensor>& a, const std::map<std::string, Tensor>& b) {
  return a.size() == b.size() && std::all_of(a.begin(), a.end(), [&](const auto& entry) {
           return b.contains(entry.first) && same_bits(entry.second, b.at(entry.first));
         });
}

}  // namespace tapecache::testing
