#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "tapecache/autograd/variable.h"
#include "tapecache/models/builder.h"
#include "tapecache/ops/linear.h"

namespace tapecache::models {

namespace detail {
class LinearRow;
}

/// Layer normalisation of the last axis, with `weight` of ones and `bias` of zeros, both [width].
class LayerNorm {
 public:
  /// Throws ValueError for a width below 1 or an epsilon that is not above 0 and finite.
  LayerNorm(const Builder& builder, std::int64_t width, double epsilon = 1e-5);
  /// Normalises x, or x + residual if one is given.
  Variable operator()(const Variable& x, const Variable& residual = {}) const;
  operator ops::Norm() const { return {weight, bias, epsilon_}; }

  Parameter weight, bias;

 private:
  double epsilon_;
};

/// Maps x [..., in] to x Wᵀ + b [..., out], with `weight` [out, in] and, unless left out, `bias` [out] of zeros. Adds
/// the residual if one is given, and the adapter of `add_lora` if the layer has one.
class Linear {
 public:
  /// Throws ValueError for sizes below 1.
  Linear(const Builder& builder, std::int64_t in, std::int64_t out, const Init& weight, bool with_bias = true);
  Variable operator()(const Variable& x, const Variable& residual = {}) const;
  /// The same for activation(x) or norm(x), which backward computes again. The result of the latter has the type of a
  /// product's operands unless told otherwise.
  Variable after(ops::Activation activation, const Variable& x, const Variable& residual = {}) const;
  ops::NormalizedLinear after(const LayerNorm& norm, const Variable& x, ops::KeepNorm,
                              ops::ResultType = ops::ResultType::kOperand) const;
  /// The type in which an input that only this layer reads may be passed: that of a product's operands, unless an
  /// adapter's dropout reads it too.
  ops::ResultType reads() const;

  Parameter weight, bias;

 private:
  friend class detail::LinearRow;
  Variable bias_or_none() const { return bias.defined() ? Variable(bias) : Variable(); }

  std::shared_ptr<const detail::LinearAdapter> adapter_;
};

/// Rows of `weight` [entries, width] by integer ids of any shape.
class Embedding {
 public:
  /// Throws ValueError for sizes below 1.
  Embedding(const Builder& builder, std::int64_t entries, std::int64_t width, const Init& weight);
  Variable operator()(const Tensor& ids) const;

  Parameter weight;
};

namespace detail {

/// A layer that changes samples at random in training alone: while the builder's training flag is set or, in a forward
/// that repeats another, if it was set in that one.
class Stochastic {
 public:
  /// Whether the layer may change anything.
  bool active(bool training) const { return training && probability_ > 0; }
  bool training() const { return builder_.training(); }
  /// Sets the builder's training flag for as long as the returned object lives, for a forward that repeats another.
  ScopedValue<bool> training_as(bool on) const { return builder_.training_as(on); }

 protected:
  /// Throws ValueError, in the name of `layer`, where the probability is not in [0, 1).
  Stochastic(const char* layer, const Builder& builder, double probability);
  double probability() const { return probability_; }

 private:
  Builder builder_;
  double probability_;
};

}  // namespace detail

/// Dropout while the builder's training flag is set, else the identity.
class Dropout : public detail::Stochastic {
 public:
  /// Throws ValueError where the probability is not in [0, 1).
  Dropout(const Builder& builder, double probability) : detail::Stochastic("dropout", builder, probability) {}
  Variable operator()(const Variable& x) const { return (*this)(x, training()); }
  Variable operator()(const Variable& x, bool training) const;
};

/// Drop path (`ops::drop_path`) while the builder's training flag is set, else the identity. With a probability of 0 it
/// takes no call number: a model without drop path draws as if the layer were not there.
class DropPath : public detail::Stochastic {
 public:
  /// Throws ValueError where the probability is not in [0, 1).
  DropPath(const Builder& builder, double probability) : detail::Stochastic("drop_path", builder, probability) {}
  Variable operator()(const Variable& x) const { return (*this)(x, training()); }
  Variable operator()(const Variable& x, bool training) const;
};

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
