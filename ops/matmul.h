#pragma once

#include "tapecache/autograd/variable.h"

namespace tapecache::ops {

struct MatmulOptions {
  bool transpose_a = false;  ///< a is stored [..., k, m]
  bool transpose_b = false;  ///< b is stored [..., n, k]
};

/// Matrix product [..., m, k] · [..., k, n] = [..., m, n]. The leading axes are batches: equal in both operands, or
/// absent in one, whose matrix is then used for every batch. Throws ShapeError.
Variable matmul(const Variable& a, const Variable& b, const MatmulOptions& options = {});

}  // namespace tapecache::ops
