#pragma once

#include <cstdint>
#include <memory>

#include "tapecache/autograd/variable.h"
#include "tapecache/models/builder.h"

namespace tapecache::models {

/// Batch normalisation (Ioffe & Szegedy 2015) of axis 1 of [rows, channels] or [batch, channels, …], with `weight` of
/// ones and `bias` of zeros, both [channels], and the buffers `running_mean` and `running_var`.
///
/// In training it normalises by the statistics of the batch and moves the running averages towards them (by `momentum`;
/// the variance there is the unbiased one, as in the paper). Else, or once its statistics are frozen, it normalises by
/// the running averages, and each sample depends on itself alone.
class BatchNorm {
 public:
  /// Throws ValueError where there is no channel, for a momentum outside [0, 1], and for an epsilon not above 0 and
  /// finite.
  BatchNorm(const Builder& builder, std::int64_t channels, double momentum = 0.1, double epsilon = 1e-5);

  /// Throws ValueError where it would take the statistics of a part of a batch (`ForwardContext::partial_batch`): they
  /// are not those of the batch, and a cached step could not equal the direct one.
  Variable operator()(const Variable& x) const;

  /// From here on the running averages are used and kept as they are, in training too. Holds for all copies.
  void freeze_statistics(bool on = true) { *frozen_ = on; }

  Parameter weight, bias;
  Tensor running_mean, running_var;

 private:
  void update_averages(const Tensor& mean, const Tensor& variance, std::int64_t count) const;

  Builder builder_;
  std::shared_ptr<bool> frozen_;
  double momentum_, epsilon_;
};

}  // namespace tapecache::models
