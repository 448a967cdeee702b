#pragma once

#include <string_view>

#include "tapecache/models/clip.h"
#include "tapecache/models/pretrained_parts.h"

#pragma GCC visibility push(hidden)

namespace tapecache::models::detail {

/// What the names of each tower begin with.
inline constexpr std::string_view kTextModel = "text_model.", kVisionModel = "vision_model.";

/// Takes the names of a tower alone, which the newest files leave the tower's own name out of, where the files have
/// `known`, one of those names.
void name_tower(FamilyPlan& plan, const WeightFiles& files, std::string_view tower, std::string_view known);

/// What is used of a CLIP with both towers, whichever library its folder is of. Where that is sentence-transformers,
/// what follows normalises.
FamilyPlan plan_of(const ClipConfig& config, bool normalizes = true);

}  // namespace tapecache::models::detail

#pragma GCC visibility pop
