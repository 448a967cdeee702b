#pragma once

#include <functional>
#include <optional>
#include <span>

#include "tapecache/gradcache/ranks.h"
#include "tapecache/gradcache/step.h"

#pragma GCC visibility push(hidden)

namespace tapecache::gradcache::detail {

/// `plan_memory`, which ranks that have no budget take part in and get none of; `check` is made before anything else.
std::optional<MemoryPlan> plan_in_group(std::span<const Tower> towers, const StepOptions& options,
                                        const std::function<void()>& check = {});

/// `plan_memory` of this rank's shares of a step that has been opened; the representations are those of all ranks, or
/// of this one alone where the loss is shared. Nothing of it is collective.
MemoryPlan plan_shares(std::span<const Tower> towers, std::span<const Share> shares, const StepOptions& options);

}  // namespace tapecache::gradcache::detail

#pragma GCC visibility pop
