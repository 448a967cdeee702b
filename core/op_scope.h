#pragma once

#include "tapecache/core/forward_context.h"
#include "tapecache/core/thread_context.h"

#pragma GCC visibility push(hidden)

namespace tapecache {

/// Names the running operation for the messages of the floors below it (allocation, threads). Scopes nest.
class [[nodiscard]] OpScope : ScopedValue<const char*> {
 public:
  explicit OpScope(const char* name) : ScopedValue(detail::thread_context.op, name) {}

  /// The innermost operation of this thread, or nullptr.
  static const char* current() { return detail::thread_context.op; }
};

}  // namespace tapecache

#pragma GCC visibility pop
