#include "tapecache/core/parallel_for.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <mutex>

#include <fmt/format.h>

#include "tapecache/core/error.h"
#include "tapecache/core/forward_context.h"
#include "tapecache/core/processors.h"
#include "tapecache/core/stay_loaded.h"
#include "tapecache/core/thread_context.h"
#include "tapecache/core/worker_team.h"

namespace tapecache {

namespace {

/// The threads of this process.
struct Pool {
  std::mutex mutex;
  std::atomic<int> threads;  // the caller of a region included
  std::atomic<bool> started = false;
  detail::WorkerTeam team;

  explicit Pool(int count) : threads(count) {}

  void start() {
    if (started.load(std::memory_order_acquire)) return;
    const std::lock_guard lock(mutex);
    if (started) return;
    team.resize(threads - 1);
    started.store(true, std::memory_order_release);
  }
};

[[maybe_unused]] const bool kStaysLoaded = detail::stay_loaded();

std::atomic<Pool*> the_pool = nullptr;

/// A child process has none of its parent's threads, and may have got locks that they held.
void leave_parents_pool() {
  if (const Pool* parents = the_pool.load()) the_pool = new Pool(parents->threads);
}

Pool& pool() {
  if (Pool* pool = the_pool.load(std::memory_order_acquire)) return *pool;
  // Never destroyed: worker threads must not be joined while a host program's statics are torn down.
  static const bool made = [] {
    pthread_atfork(nullptr, nullptr, leave_parents_pool);
    the_pool.store(new Pool(detail::usable_processors()), std::memory_order_release);
    return true;
  }();
  static_cast<void>(made);
  return *the_pool.load(std::memory_order_acquire);
}

}  // namespace

void detail::require_own_thread(const char* op) {
  if (!thread_context.in_block) return;
  throw TapeError(
      fmt::format("{}: called by a body of parallel_for, whose threads do not share the caller's tape and "
                  "ForwardContext; expected outside of it, where ops compute in parallel themselves",
                  op));
}

void set_thread_count(int count) {
  if (count < 1 || count > 1024) {
    throw ValueError(fmt::format("set_thread_count: {} threads, expected 1 to 1024", count));
  }
  if (detail::thread_context.in_block)
    throw Error("set_thread_count: called by a body of parallel_for, expected outside of it");
  Pool& p = pool();
  const std::lock_guard lock(p.mutex);
  if (count == p.threads) return;
  if (p.started) p.team.resize(count - 1);
  p.threads = count;
}

int thread_count() { return pool().threads; }

void detail::run_blocks(std::int64_t size, std::int64_t block, BlockFunction call, const void* body) {
  if (size <= 0) return;
  block = std::clamp<std::int64_t>(block, 1, size);
  const std::int64_t blocks = (size - 1) / block + 1;
  const std::int64_t threads = blocks > 1 && !thread_context.in_block ? thread_count() : 1;
  const ScopedValue in_block(thread_context.in_block, true);
  if (threads > 1) {
    pool().start();
    pool().team.run(size, block, call, body, std::min(threads, blocks) - 1);
    return;
  }
  for (std::int64_t begin = 0; begin < size; begin += block) call(body, begin, std::min(size, begin + block));
}

}  // namespace tapecache
