#pragma once

#include "tapecache/autograd/variable.h"

namespace tapecache::ops {

/// A normalised batch, and the statistics it was normalised by: constants [channels].
struct BatchNormalized {
  Variable y = {};
  Tensor mean = {}, variance = {};  ///< the variance is the biased one, Σ (x - mean)² / count
};

/// Batch normalisation (Ioffe & Szegedy 2015) by the statistics of the batch itself: (x - mean) / √(var + ε) · weight +
/// bias, where mean and variance of each channel are taken over all other axes. x is [rows, channels] or [batch,
/// channels, …], weight and bias [channels]. Each sample depends on all others, so that a part of a batch gives another
/// result than the whole. Throws ShapeError, also where a channel has fewer than two values, and ValueError for ε
/// as layer_norm does.
BatchNormalized batch_norm(const Variable& x, const Variable& weight, const Variable& bias, double epsilon = 1e-5);

/// The same by given statistics [channels], which are constants: each sample depends on itself alone.
Variable batch_norm(const Variable& x, const Variable& weight, const Variable& bias, const Tensor& mean,
                    const Tensor& variance, double epsilon = 1e-5);

}  // namespace tapecache::ops
