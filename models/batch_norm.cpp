#include "tapecache/models/layers.h"

#include <fmt/format.h>

#include "tapecache/autograd/variable.h"
#include "tapecache/core/forward_context.h"
#include "tapecache/models/argument_checks.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/normalize.h"

namespace tapecache::models {

namespace {

std::int64_t checked(const Builder& builder, std::int64_t channels, double momentum, double epsilon) {
  if (channels < 1 || !(momentum >= 0 && momentum <= 1)) {
    throw ValueError(fmt::format("batch norm '{}': {} channels, momentum {}; expected at least 1, and 0 to 1",
                                 builder.prefix(), channels, momentum));
  }
  detail::require_epsilon(fmt::format("batch norm '{}'", builder.prefix()), epsilon);
  return channels;
}

/// average += momentum (value - average)
void move_towards(Tensor average, const Tensor& value, double scale, double momentum) {
  average.copy_from(ops::add(ops::scale(average, 1 - momentum), ops::scale(value, scale * momentum)).value());
}

}  // namespace

BatchNorm::BatchNorm(const Builder& builder, std::int64_t channels, double momentum, double epsilon)
    : weight(builder.parameter("weight", {checked(builder, channels, momentum, epsilon)}, Init::constant(1))),
      bias(builder.parameter("bias", {channels}, Init::constant(0))),
      running_mean(builder.buffer("running_mean", Tensor::zeros({channels}, builder.dtype()))),
      running_var(builder.buffer("running_var", Tensor::full({channels}, 1, builder.dtype()))),
      builder_(builder),
      frozen_(std::make_shared<bool>(false)),
      momentum_(momentum),
      epsilon_(epsilon) {
  weight.set("epsilon", fmt::to_string(epsilon));
}

Variable BatchNorm::operator()(const Variable& x) const {
  if (!builder_.training() || *frozen_) {
    return ops::batch_norm(x, weight, bias, running_mean, running_var, epsilon_);
  }
  if (forward_context().partial_batch) {
    throw ValueError(
        fmt::format("batch norm '{}': the statistics of a chunk are not those of the batch; freeze them "
                    "(freeze_statistics), or use layer norm",
                    builder_.prefix()));
  }
  const ops::BatchNormalized result = ops::batch_norm(x, weight, bias, epsilon_);
  if (!forward_context().recompute) update_averages(result.mean, result.variance, x.numel() / x.size(1));
  return result.y;
}

void BatchNorm::update_averages(const Tensor& mean, const Tensor& variance, std::int64_t count) const {
  const double unbiased = static_cast<double>(count) / static_cast<double>(count - 1);
  before_change(running_mean);
  before_change(running_var);
  move_towards(running_mean, mean, 1, momentum_);
  move_towards(running_var, variance, unbiased, momentum_);
}

}  // namespace tapecache::models
