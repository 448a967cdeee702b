#pragma once

#include "tapecache/autograd/variable.h"

namespace tapecache::ops {

/// Sets each element to 0 with the given probability and scales the others by 1 / (1 - probability) (Srivastava et
/// al. 2014). Axis 0 of x runs over samples. The draw depends on (seed, step, call number, global sample index,
/// element within the sample), see `random_state()`; no mask is stored. A probability of 0 returns x, and takes a call
/// number all the same. Throws ValueError where the probability is not in [0, 1).
Variable dropout(const Variable& x, double probability);

/// Stochastic depth (Huang et al. 2016): sets whole samples to 0 with the given probability and scales the others by
/// 1 / (1 - probability). A sample's draw is that of its element 0; all else is as in `dropout`.
Variable drop_path(const Variable& x, double probability);

}  // namespace tapecache::ops
