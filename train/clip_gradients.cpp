#include "tapecache/train/clip_gradients.h"

#include <cmath>
#include <vector>

#include <fmt/format.h>

#include "tapecache/ops/update.h"

namespace tapecache::train {

double gradient_norm(std::span<const Parameter> parameters) {
  std::vector<Tensor> gradients;
  for (const Parameter& p : parameters) {
    if (p.gradient().defined()) gradients.push_back(p.gradient());
  }
  return std::sqrt(ops::squared_norm(gradients));
}

double clip_gradient_norm(std::span<const Parameter> parameters, double max_norm) {
  if (!(max_norm > 0)) throw ValueError(fmt::format("clip_gradient_norm: max_norm is {}, expected above 0", max_norm));
  const double norm = gradient_norm(parameters);
  if (!std::isfinite(norm) || norm <= max_norm) return norm;
  for (Parameter p : parameters) {
    if (p.gradient().defined()) ops::scale_in_place(p.mutable_gradient(), max_norm / norm);
  }
  return norm;
}

}  // namespace tapecache::train
