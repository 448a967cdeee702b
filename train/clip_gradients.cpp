#include "tapecache/train/optimizer.h"

#include <cmath>
#include <vector>

#include <fmt/format.h>

#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/update.h"
#include "tapecache/train/distinct_gradients.h"

namespace tapecache::train {

namespace {

Number root(const Number& square) {
  if (!square.is_on_device()) return std::sqrt(square.item());
  return ops::sqrt(Variable(square.tensor())).value();
}

}  // namespace

Number gradient_norm(std::span<const Parameter> parameters) {
  return root(ops::squared_norm(detail::distinct_gradients(parameters)));
}

Number clip_gradient_norm(std::span<const Parameter> parameters, double max_norm) {
  if (!(max_norm > 0)) throw ValueError(fmt::format("clip_gradient_norm: max_norm is {}, expected above 0", max_norm));
  std::vector<Tensor> gradients = detail::distinct_gradients(parameters);
  const Number squared = ops::squared_norm(gradients);
  ops::clip_to_norm(gradients, squared, max_norm);
  return root(squared);
}

}  // namespace tapecache::train
