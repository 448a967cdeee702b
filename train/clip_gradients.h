#pragma once

#include <span>

#include "tapecache/autograd/parameter.h"
#include "tapecache/core/number.h"

namespace tapecache::train {

/// Euclidean norm of all gradients together, added in f64; parameters without a gradient are passed over. Here and
/// below one that is listed more than once, as tied weights may be, counts once. The norm stays on the gradients'
/// device; only where they are on several does the host wait for them.
Number gradient_norm(std::span<const Parameter> parameters);

/// Scales all gradients, of one device, so that their norm is at most `max_norm` (Pascanu et al. 2013), and returns the
/// norm before that, without waiting for it. A norm that is NaN or Inf leaves the gradients as they are. Throws
/// ValueError unless max_norm > 0, DeviceError for gradients on several devices.
Number clip_gradient_norm(std::span<const Parameter> parameters, double max_norm);

}  // namespace tapecache::train
