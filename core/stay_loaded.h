#pragma once

#pragma GCC visibility push(hidden)

namespace tapecache::detail {

/// Keeps what holds this library, be it the shared library or a plugin that the static one was linked into, in memory until the
/// process ends, whatever dlclose() is called with: its threads run its code, and what it caches is to be found again by who loads
/// it again. Nothing where it cannot be unloaded anyway. Returns whether it holds it.
bool stay_loaded();

}  // namespace tapecache::detail

#pragma GCC visibility pop
