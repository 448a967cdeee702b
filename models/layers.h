#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "tapecache/autograd/variable.h"
#include "tapecache/models/builder.h"
#include "tapecache/ops/linear.h"

namespace tapecache::models {

using ops::activate;
using ops::Activation;

/// Layer normalisation of the last axis, with `weight` of ones and `bias` of zeros, both [width].
class LayerNorm {
 public:
  /// Throws ValueError for a width below 1 or an epsilon that is not above 0 and finite.
  LayerNorm(const Builder& builder, std::int64_t width, double epsilon = 1e-5);
  /// Of x + residual where there is one.
  Variable operator()(const Variable& x, const Variable& residual = {}) const;
  operator ops::Norm() const { return {weight, bias, epsilon_}; }

  Parameter weight, bias;

 private:
  double epsilon_;
};

/// x [..., in] to [..., out]: x Wᵀ + b, with `weight` [out, in] and, unless left out, `bias` [out] of zeros; plus the
/// residual where there is one; and, of what it takes, what low-rank adaptation adds (`add_lora`).
class Linear {
 public:
  /// Throws ValueError for sizes below 1.
  Linear(const Builder& builder, std::int64_t in, std::int64_t out, const Init& weight, bool with_bias = true);
  Variable operator()(const Variable& x, const Variable& residual = {}) const;
  /// Of activation(x), or of norm(x), which backward computes again; the latter of the type that a product takes.
  Variable after(Activation activation, const Variable& x, const Variable& residual = {}) const;
  ops::NormalizedLinear after(const LayerNorm& norm, const Variable& x, ops::KeepNorm,
                              ops::ResultType = ops::ResultType::kOperand) const;
  /// In what type it is given what it alone reads: 16 bits, unless an adapter's dropout is to read it first.
  ops::ResultType reads() const;

  Parameter weight, bias;

 private:
  friend class LinearRow;
  Variable bias_or_none() const { return bias.defined() ? Variable(bias) : Variable(); }

  std::shared_ptr<const LinearAdapter> adapter_;
};

/// Several linear layers of one x, their outputs side by side.
class LinearRow {
 public:
  /// The layers live as long.
  explicit LinearRow(std::vector<const Linear*> layers) : layers_(std::move(layers)) {}
  /// The result is of type kComputed, whatever is asked for, where any of them is adapted.
  Variable operator()(const Variable& x, ops::ResultType = ops::ResultType::kComputed) const;
  /// Of norm(x), which backward computes again.
  ops::NormalizedLinear after(const ops::Norm& norm, const Variable& x, ops::KeepNorm, ops::ResultType) const;

 private:
  struct Parts {
    std::vector<Variable> weights, biases;
    std::vector<std::int64_t> widths;
    std::vector<const LinearAdapter*> adapters;  // null where there is none
    bool adapted = false;
  };
  Parts parts() const;

  std::vector<const Linear*> layers_;
};

/// Rows of `weight` [entries, width] by integer ids of any shape.
class Embedding {
 public:
  /// Throws ValueError for sizes below 1.
  Embedding(const Builder& builder, std::int64_t entries, std::int64_t width, const Init& weight);
  Variable operator()(const Tensor& ids) const;

  Parameter weight;
};

/// What a layer does to the samples of a training step alone: while the builder's training flag is set, or as it was
/// when a forward began that is repeated.
class Stochastic {
 public:
  /// Whether it may change anything.
  bool active(bool training) const { return training && probability_ > 0; }
  bool training() const { return builder_.training(); }
  /// The builder's flag, until the end of what this returns: for a forward that is repeated.
  ScopedValue<bool> training_as(bool on) const { return builder_.training_as(on); }

 protected:
  /// Throws ValueError, in the name of `layer`, where the probability is not in [0, 1).
  Stochastic(const char* layer, const Builder& builder, double probability);
  double probability() const { return probability_; }

 private:
  Builder builder_;
  double probability_;
};

/// Dropout while the builder's training flag is set, else the identity.
class Dropout : public Stochastic {
 public:
  /// Throws ValueError where the probability is not in [0, 1).
  Dropout(const Builder& builder, double probability) : Stochastic("dropout", builder, probability) {}
  Variable operator()(const Variable& x) const { return (*this)(x, training()); }
  Variable operator()(const Variable& x, bool training) const;
};

/// Drop path (`ops::drop_path`) while the builder's training flag is set, else the identity. With a probability of 0 it
/// takes no call number: a model without drop path draws as if the layer were not there.
class DropPath : public Stochastic {
 public:
  /// Throws ValueError where the probability is not in [0, 1).
  DropPath(const Builder& builder, double probability) : Stochastic("drop_path", builder, probability) {}
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
