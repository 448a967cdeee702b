#include "tapecache/train/clip_gradients.h"

#include <cmath>
#include <vector>

#include <fmt/format.h>

#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/update.h"
#include "tapecache/train/distinct_gradients.h"

namespace tapecache::train {

double gradient_norm(std::span<const Parameter> parameters) {
  return std::sqrt(ops::squared_norm(detail::distinct_gradients(parameters)));
}

Tensor clip_gradients(std::span<const Parameter> parameters, double max_norm) {
  if (!(max_norm > 0)) throw ValueError(fmt::format("clip_gradients: max_norm is {}, expected above 0", max_norm));
  std::vector<Tensor> gradients = detail::distinct_gradients(parameters);
  const Tensor squared = ops::sum_of_squares(gradients);
  ops::clip_to_norm(gradients, squared, max_norm);
  return ops::sqrt(Variable(squared)).value();
}

double clip_gradient_norm(std::span<const Parameter> parameters, double max_norm) {
  if (!(max_norm > 0)) throw ValueError(fmt::format("clip_gradient_norm: max_norm is {}, expected above 0", max_norm));
  return clip_gradients(parameters, max_norm).item();
}

}  // namespace tapecache::train
