#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "tapecache/autograd/variable.h"
#include "tapecache/losses/losses.h"

namespace tapecache::testing {

/// Of f64, whole numbers too.
inline Tensor scalar(double value) { return Tensor::scalar(value); }

/// A contrastive loss with its arguments and what it is by its definition.
struct LossRow {
  std::string name;            ///< the function's, and what is particular after a comma
  std::vector<Tensor> inputs;  ///< f64, all differentiable: representations, then parameters of the loss
  std::function<Variable(std::span<const Variable>)> loss;
  std::function<double()> reference;  ///< of the inputs, in plain loops over doubles
  std::size_t representations = 2;
  /// The same in tiles, where it takes them. With tiles of 4 by 5 it is a row of its own, too.
  std::function<Variable(std::span<const Variable>, const ops::TileOptions&)> in_tiles = {};
  bool refuses_tiles = false;  ///< for an option that it has, with a ValueError
};

/// Those that take tiles are of this many samples, and their representations of this width.
std::vector<LossRow> loss_rows(std::int64_t samples = 6, std::int64_t width = 4);

}  // namespace tapecache::testing
