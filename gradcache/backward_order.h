#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "tapecache/gradcache/segments.h"
#include "tapecache/gradcache/side.h"

#pragma GCC visibility push(hidden)

/// In which order a step goes back through its chunks. It decides how soon a gradient is complete, and, within a group,
/// the order of additions.
namespace tapecache::gradcache::detail {

/// A chunk that is gone back through.
struct BackwardStep {
  Place place;
  std::int64_t segment = 0;
  std::vector<Parameter> last;  // no chunk after it adds to these
};

/// Sides that read no parameter of another group's.
struct BackwardGroup {
  std::vector<std::size_t> sides;
  std::vector<BackwardStep> steps;  // of what this rank has samples of, and is not frozen
};

enum class GroupOrder {
  kBatch,         // one group: from the last chunk to the first, as a tape over the whole batch would run
  kLargestFirst,  // that of most bytes of parameters, so that its gradients travel while the others are computed
};

/// Within a group from the last chunk to the first, or, with segments, so within each of these, from the last to the
/// first.
std::vector<BackwardGroup> backward_order(std::span<const Side> sides, std::span<const Share> shares,
                                          const Segments& segments, GroupOrder order);

/// All parameters, as they will be complete where each side has samples.
std::vector<Parameter> completion_order(std::span<const Side> sides, std::span<const BackwardGroup> groups);

}  // namespace tapecache::gradcache::detail

#pragma GCC visibility pop
