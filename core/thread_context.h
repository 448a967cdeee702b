#pragma once

#include "tapecache/core/error.h"

#pragma GCC visibility push(hidden)

namespace tapecache {

class MemoryPool;

namespace detail {

class GraphCopies;

/// State of the code that runs on this thread. Each member is set for a scope (`ScopedValue`) and points to something
/// that lives as long as the scope, so none of them may be stored. What must be stored to repeat a forward belongs into
/// `ForwardContext`.
struct ThreadContext {
  const char* op = nullptr;          // the innermost operation
  const MemoryPool* pool = nullptr;  // from which blocks are allocated
  GraphCopies* copies = nullptr;     // of the step that is being captured
  bool in_block = false;             // whether this is the body of a parallel_for
};

inline thread_local ThreadContext thread_context;

/// Throws TapeError, naming the op, in a body of parallel_for: the threads that run such bodies have another tape,
/// precision and random state than the caller, or none.
void require_own_thread(const char* op);

}  // namespace detail
}  // namespace tapecache

#pragma GCC visibility pop
