#pragma once

#include "tapecache/core/error.h"

#pragma GCC visibility push(hidden)

namespace tapecache {

class MemoryPool;
class GraphCopies;

namespace detail {

/// What the code that runs on this thread is part of. Each is changed for a scope (`ScopedValue`) and points to what
/// lives as long, so that none may be kept; what is kept to run a forward again belongs into `ForwardContext`.
struct ThreadContext {
  const char* op = nullptr;          // the innermost operation
  const MemoryPool* pool = nullptr;  // that blocks come from
  GraphCopies* copies = nullptr;     // of the step that is captured, where one is
  bool in_block = false;             // of a parallel_for
};

inline thread_local ThreadContext thread_context;

/// Throws TapeError, naming the op, in a body of parallel_for: the threads that run such bodies have another tape,
/// precision and random state than the caller, or none.
void require_own_thread(const char* op);

}  // namespace detail
}  // namespace tapecache

#pragma GCC visibility pop
