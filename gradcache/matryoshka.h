#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "tapecache/autograd/variable.h"

namespace tapecache::gradcache {

struct MatryoshkaOptions {
  std::vector<std::int64_t> widths = {};
  std::vector<double> weights = {};  ///< one a width; empty: 1 each
  bool normalize = true;             ///< rows of each cut to length one
};

/// Matryoshka representation learning (Kusupati et al. 2022): Σ_w weight_w · loss(representations cut to their first w
/// columns), so that prefixes of a representation serve as smaller ones. Throws ValueError for no widths, one outside
/// [1, width] of a representation, or another number of weights.
Variable matryoshka(const std::function<Variable(std::span<const Variable>)>& loss,
                    std::span<const Variable> representations, const MatryoshkaOptions& options);

}  // namespace tapecache::gradcache
