#pragma once

#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "tapecache/autograd/variable.h"
#include "tapecache/gradcache/splittable.h"

namespace tapecache::gradcache {

/// One tensor of representations, [samples, …]. The name serves messages and the loss; it may be empty.
struct Output {
  std::string name;
  Variable value;
};

/// A loss that every sample has by itself, such as masked-token prediction or the balance of a mixture of experts:
/// values [samples]. It adds weight · mean over the whole batch to the step's loss, however the batch was cut.
struct AuxiliaryLoss {
  std::string name;
  Variable values;
  double weight = 1;
};

/// What an encoder gives for some samples. Encoders may also return a Variable, a std::vector of them or a std::tuple
/// of them.
struct Encoded {
  std::vector<Output> outputs;
  std::vector<AuxiliaryLoss> auxiliary = {};
};

namespace detail {

inline Encoded as_encoded(Encoded encoded) { return encoded; }
inline Encoded as_encoded(Variable output) { return {{{"", std::move(output)}}}; }
inline Encoded as_encoded(const std::vector<Variable>& outputs) {
  Encoded encoded;
  for (const Variable& output : outputs) encoded.outputs.push_back({"", output});
  return encoded;
}
template <class T>
Encoded as_encoded(const T& outputs) requires IsTuple<T>::value {
  return std::apply([](const auto&... values) { return Encoded{{{"", Variable(values)}...}}; }, outputs);
}

}  // namespace detail

}  // namespace tapecache::gradcache
