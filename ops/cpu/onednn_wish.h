#pragma once

#include <cstdlib>
#include <string_view>

#include <fmt/format.h>

#include "tapecache/core/error.h"

namespace tapecache::kernels::onednn {

enum class Wish { kAuto, kNever, kAlways };

/// What the environment variable TAPECACHE_ONEDNN says. Throws ValueError where that is nothing known.
inline Wish wish() {
  const char* value = std::getenv("TAPECACHE_ONEDNN");
  const std::string_view word = value ? value : "";
  if (word.empty() || word == "auto") return Wish::kAuto;
  if (word == "never") return Wish::kNever;
  if (word == "always") return Wish::kAlways;
  throw ValueError(fmt::format("TAPECACHE_ONEDNN is '{}', expected always, never or auto", word));
}

}  // namespace tapecache::kernels::onednn
