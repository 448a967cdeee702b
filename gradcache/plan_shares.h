#pragma once

#include <span>

#include "tapecache/gradcache/ranks.h"
#include "tapecache/gradcache/step.h"

#pragma GCC visibility push(hidden)

namespace tapecache::gradcache::detail {

/// `plan_memory` of this rank's shares of a step that has been opened; the representations are those of all ranks.
/// Nothing of it is collective.
MemoryPlan plan_shares(std::span<const Tower> towers, std::span<const Share> shares, const StepOptions& options);

}  // namespace tapecache::gradcache::detail

#pragma GCC visibility pop
