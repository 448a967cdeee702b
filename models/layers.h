#pragma once

#include <cstdint>

#include "tapecache/autograd/variable.h"
#include "tapecache/models/builder.h"
#include "tapecache/ops/elementwise.h"

namespace tapecache::models {

using ops::activate;
using ops::Activation;

/// x [..., in] to [..., out]: x Wᵀ + b, with `weight` [out, in] and, unless left out, `bias` [out] of zeros.
class Linear {
 public:
  Linear(const Builder& builder, std::int64_t in, std::int64_t out, const Init& weight, bool with_bias = true);
  Variable operator()(const Variable& x) const;
  /// Of activation(x), which backward computes again.
  Variable after(Activation activation, const Variable& x) const;

  Parameter weight, bias;
};

/// Layer normalisation of the last axis, with `weight` of ones and `bias` of zeros, both [width].
class LayerNorm {
 public:
  LayerNorm(const Builder& builder, std::int64_t width, double epsilon = 1e-5);
  Variable operator()(const Variable& x) const;

  Parameter weight, bias;

 private:
  double epsilon_;
};

/// Rows of `weight` [entries, width] by integer ids of any shape.
class Embedding {
 public:
  Embedding(const Builder& builder, std::int64_t entries, std::int64_t width, const Init& weight);
  Variable operator()(const Tensor& ids) const;

  Parameter weight;
};

/// Dropout while the builder's training flag is set, else the identity.
class Dropout {
 public:
  /// Throws ValueError where the probability is not in [0, 1).
  Dropout(const Builder& builder, double probability);
  Variable operator()(const Variable& x) const;

 private:
  Builder builder_;
  double probability_;
};

/// Drop path (`ops::drop_path`) while the builder's training flag is set, else the identity. With a probability of 0 it
/// takes no call number: a model without drop path draws as if the layer were not there.
class DropPath {
 public:
  /// Throws ValueError where the probability is not in [0, 1).
  DropPath(const Builder& builder, double probability);
  Variable operator()(const Variable& x) const;

 private:
  Builder builder_;
  double probability_;
};

}  // namespace tapecache::models
