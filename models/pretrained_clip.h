#pragma once

#include "tapecache/models/clip.h"
#include "tapecache/models/pretrained_parts.h"

#pragma GCC visibility push(hidden)

namespace tapecache::models::detail {

/// What is used of a CLIP with both towers, whichever library its folder is of.
FamilyPlan plan_of(const ClipConfig& config);

}  // namespace tapecache::models::detail

#pragma GCC visibility pop
