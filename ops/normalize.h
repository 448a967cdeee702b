#pragma once

#include "tapecache/autograd/variable.h"

namespace tapecache::ops {

/// Layer normalisation (Ba et al. 2016) of the last axis: (x - mean) / √(var + ε) · weight + bias, with x [..., width],
/// weight and bias [width]; of x + residual where there is one. Throws ShapeError, and ValueError where ε is not
/// positive, or so small that x's type cannot hold 1 / ε.
Variable layer_norm(const Variable& x, const Variable& weight, const Variable& bias, double epsilon = 1e-5,
                    const Variable& residual = {});

/// Root mean square normalisation (Zhang & Sennrich 2019) of the last axis: x / √(mean(x²) + ε) · weight, with x [...,
/// width] and weight [width]. Throws ShapeError, and ValueError for ε as layer_norm does.
Variable rms_norm(const Variable& x, const Variable& weight, double epsilon = 1e-6);

/// Rows of the last axis scaled to Euclidean length 1: x / max(‖x‖, ε). Throws ValueError for ε as layer_norm does.
Variable l2_normalize(const Variable& x, double epsilon = 1e-12);

/// A normalised batch, and the statistics it was normalised by: constants [channels].
struct BatchNormalized {
  Variable y = {};
  Tensor mean = {}, variance = {};  ///< the variance is the biased one, Σ (x - mean)² / count
};

/// Batch normalisation (Ioffe & Szegedy 2015) by the statistics of the batch itself: (x - mean) / √(var + ε) · weight +
/// bias, where mean and variance of each channel are taken over all other axes. x is [rows, channels] or [batch,
/// channels, …], weight and bias [channels]. Each sample depends on all others, so that a part of a batch gives another
/// result than the whole. A channel whose variance does not fit the type is normalised to 0. Throws ShapeError, also
/// where a channel has fewer than two values, and ValueError for ε as layer_norm does.
BatchNormalized batch_norm(const Variable& x, const Variable& weight, const Variable& bias, double epsilon = 1e-5);

/// The same by given statistics [channels], which are constants: each sample depends on itself alone.
Variable batch_norm(const Variable& x, const Variable& weight, const Variable& bias, const Tensor& mean,
                    const Tensor& variance, double epsilon = 1e-5);

// All over the last axis of x [..., cols]; each throws ShapeError for a scalar or an empty last axis.
Variable softmax(const Variable& x);
Variable log_softmax(const Variable& x);
/// softmax over the entries where mask (bool, broadcastable to x's shape) is true; the others get 0, and a row with
/// no true entry is all 0. Throws DTypeError where the mask is not bool.
Variable masked_softmax(const Variable& x, const Tensor& mask);

}  // namespace tapecache::ops
