#pragma once

#include "tapecache/autograd/variable.h"
#include "tapecache/gradcache/equal_targets.h"

namespace tapecache::gradcache {

struct GistOptions {
  double temperature = 0.01;
  /// How far below the positive's guide similarity a candidate's must be, to count as a negative.
  double margin = 0;
  /// Whether the margin is a share of the positive's similarity (of its absolute value).
  bool relative = false;
  /// Targets that are left out whatever the guide finds, and so are the queries and positives that they belong to.
  EqualTargets equal_targets = {};
};

/// GISTEmbed (Solatorio 2024, "Guided in-sample selection of training negatives"): InfoNCE of queries [M, width]
/// against targets [M·(1+h), width] (as in info_nce), the other queries, and, for the positive, the other positives,
/// where a candidate is left out if a guide model finds it nearer than the positive. The guide's representations, of
/// any width, are constants; where they are on another device than the queries, they are copied there. All similarities
/// are cosines; `scale` is the inverse temperature, a scalar. Throws ShapeError where rows or ids do not fit, ValueError for
/// a temperature that is not positive, a margin that is not finite, or ids beside equal_rows.
Variable gist_loss(const Variable& queries, const Variable& targets, const Tensor& guide_queries,
                   const Tensor& guide_targets, const GistOptions& options = {});
Variable gist_loss(const Variable& queries, const Variable& targets, const Tensor& guide_queries,
                   const Tensor& guide_targets, const Variable& scale, const GistOptions& options = {});

}  // namespace tapecache::gradcache
