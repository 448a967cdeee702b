#pragma once

#include "tapecache/models/gated_text.h"
#include "tapecache/models/pretrained_parts.h"

#pragma GCC visibility push(hidden)

namespace tapecache::models::detail {

/// What is used of a text model with rotary positions.
FamilyPlan plan_of(const FamilySource& source, const GatedTextConfig& config, const char* saved_class);

/// The kinds of attention that `layer_types` gives each layer, true for that over all tokens. `unsaid(layer)` where the
/// field is left out.
std::vector<bool> global_layers(const JsonFields& fields, std::int64_t layers,
                                const std::function<bool(std::int64_t)>& unsaid);

}  // namespace tapecache::models::detail

#pragma GCC visibility pop
