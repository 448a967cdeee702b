#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

#include "tapecache/core/error.h"

namespace tapecache {

/// Sets how many threads the library computes with, the caller included. Throws ValueError below 1 or above 1024.
/// Not to be called while another thread computes.
void set_thread_count(int count);
/// Threads the library computes with; at first the number of processors this process may use.
int thread_count();

namespace detail {
using BlockFunction = void (*)(const void* body, std::int64_t begin, std::int64_t end);
void run_blocks(std::int64_t size, std::int64_t block, BlockFunction call, const void* body);
}  // namespace detail

/// Calls `body(begin, end)` for the consecutive blocks [0, block), [block, 2·block), … of [0, size), in parallel.
/// The cuts depend on `size` and `block` alone, so a result built from blocks is the same for any thread count.
/// Within a running body it works serially. The first exception of a body is rethrown after all have ended.
///
/// Bodies are for plain computing, as a kernel's over pointers. The calling thread and others run them, and only the
/// first has the caller's tape, `ForwardContext` (random state, precision) and hooks: so ops and `Tape::backward` throw
/// TapeError in a body, on every thread and for any number of them. They are parallel themselves; call them outside.
template <class Body>
void parallel_for(std::int64_t size, std::int64_t block, const Body& body) {
  detail::run_blocks(
      size, block,
      [](const void* f, std::int64_t begin, std::int64_t end) { (*static_cast<const Body*>(f))(begin, end); },
      std::addressof(body));
}

}  // namespace tapecache
