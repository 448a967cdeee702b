#pragma once

#include <cstdint>

#include "tapecache/core/json_fields.h"
#include "tapecache/models/rope_tables.h"

#pragma GCC visibility push(hidden)

namespace tapecache::models::detail {

using tapecache::detail::JsonFields;

/// What transformers' fields say of rotary position embedding: `rope_type` "default", "linear" or "llama3" with their
/// numbers, and `rope_theta`, of `base` where that is left out. `max_tokens` is that of training where a scaling does
/// not name another.
RopeTables read_rope(const JsonFields& parameters, double base, std::int64_t head_width, std::int64_t max_tokens);

}  // namespace tapecache::models::detail

#pragma GCC visibility pop
