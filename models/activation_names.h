#pragma once

#include <optional>
#include <string_view>

#include "tapecache/ops/elementwise.h"

#pragma GCC visibility push(hidden)

namespace tapecache::models::detail {

/// As Hugging Face's configurations call it.
std::string_view name_of(ops::Activation activation);

/// The activation that transformers has under this name; none where there is none here.
std::optional<ops::Activation> activation_named(std::string_view name);

}  // namespace tapecache::models::detail

#pragma GCC visibility pop
