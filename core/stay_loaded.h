#pragma once

#pragma GCC visibility push(hidden)

namespace tapecache::detail {

/// Keeps what holds this library, be it the shared library or a plugin that the static one was linked into, in memory
/// until the process ends, whatever dlclose() is called with: its threads run its code, and who loads it again finds
/// what it cached. Returns whether it does, which it need not for a program itself.
bool stay_loaded();

}  // namespace tapecache::detail

#pragma GCC visibility pop
