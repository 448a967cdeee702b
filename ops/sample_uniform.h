#pragma once

#include <cstdint>

#include "tapecache/core/tensor.h"

namespace tapecache::ops {

/// Constants f32 [samples, per_sample], uniform in [0, 1), drawn as dropout draws: by (seed, step, call number, global
/// sample index, element), see `random_state()`. What an encoder augments its samples with, so that a sample is altered
/// alike however the batch is cut; each call takes a call number. Brightness, up to a fifth up or down, of x [batch,
/// features]:
///
///     const Variable gain = ops::scale(ops::sample_uniform(x.size(0), 1), 0.4);
///     return encode(ops::multiply(x, ops::add(gain, Tensor::scalar(0.8f))));
///
/// Throws ShapeError where `samples` is not a multiple of the samples in view, ValueError where a size is negative.
Tensor sample_uniform(std::int64_t samples, std::int64_t per_sample, Device device = Device::cpu());

}  // namespace tapecache::ops
