#pragma once

#include "tapecache/autograd/variable.h"

namespace tapecache::ops {

enum class Reduction { kNone, kMean, kSum };

/// -log softmax(logits)[target] for logits [rows, classes] and targets [rows] (i32 or i64, on the logits' device or the
/// host): [rows] with kNone, else a scalar. Throws ShapeError, and ValueError naming the first target that is no class.
Variable cross_entropy(const Variable& logits, const Tensor& targets, Reduction reduction = Reduction::kMean);

}  // namespace tapecache::ops
