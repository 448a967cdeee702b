#include "tapecache/train/clip_gradients.h"

#include <cmath>
#include <vector>

#include <fmt/format.h>

#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/update.h"

namespace tapecache::train {

namespace {

std::vector<Tensor> gradients_of(std::span<const Parameter> parameters) {
  std::vector<Tensor> gradients;
  for (const Parameter& p : parameters) {
    if (p.gradient().defined()) gradients.push_back(p.gradient());
  }
  return gradients;
}

}  // namespace

double gradient_norm(std::span<const Parameter> parameters) {
  return std::sqrt(ops::squared_norm(gradients_of(parameters)));
}

Tensor clip_gradients(std::span<const Parameter> parameters, double max_norm) {
  if (!(max_norm > 0)) throw ValueError(fmt::format("clip_gradients: max_norm is {}, expected above 0", max_norm));
  std::vector<Tensor> gradients = gradients_of(parameters);
  const Tensor squared = ops::sum_of_squares(gradients);
  ops::clip_to_norm(gradients, squared, max_norm);
  return ops::sqrt(Variable(squared)).value();
}

double clip_gradient_norm(std::span<const Parameter> parameters, double max_norm) {
  if (!(max_norm > 0)) throw ValueError(fmt::format("clip_gradient_norm: max_norm is {}, expected above 0", max_norm));
  return clip_gradients(parameters, max_norm).item();
}

}  // namespace tapecache::train
