#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "tapecache/autograd/variable.h"

namespace tapecache::testing {

/// A contrastive loss with its arguments and what it is by its definition.
struct LossRow {
  std::string name;
  std::vector<Tensor> inputs;  ///< f64, all differentiable
  std::function<Variable(std::span<const Variable>)> loss;
  std::function<double()> reference;  ///< of the inputs, in plain loops over doubles
  std::size_t representations = 2;    ///< the first of the inputs; the others are parameters of the loss
};

std::vector<LossRow> loss_rows();

}  // namespace tapecache::testing
