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

}  // namespace tapecache::models
