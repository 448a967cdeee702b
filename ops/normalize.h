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

}  // namespace tapecache::ops
