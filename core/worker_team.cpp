#include "tapecache/core/worker_team.h"

#include <signal.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "tapecache/core/processors.h"
#include "tapecache/core/thread_context.h"

namespace tapecache::detail {

namespace {

constexpr auto kSpin = std::chrono::microseconds(50);

void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// Waits for a condition for a short while. Returns whether it holds.
template <class Condition>
bool spin_until(const Condition& holds) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 64; ++i) {
      if (holds()) return true;
      pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

/// For a scope, this thread and those that it makes leave signals to the program's other threads, on which its handlers
/// may count to be. Not those that tell a thread of its own fault, nor a profiler's.
class SignalsElsewhere {
 public:
  SignalsElsewhere() {
    sigset_t set;
    sigfillset(&set);
    for (const int own : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT, SIGPROF}) sigdelset(&set, own);
    pthread_sigmask(SIG_BLOCK, &set, &before_);
  }
  ~SignalsElsewhere() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsElsewhere(const SignalsElsewhere&) = delete;
  SignalsElsewhere& operator=(const SignalsElsewhere&) = delete;

 private:
  sigset_t before_;
};

}  // namespace

void WorkerTeam::resize(int workers) {
  ++life_;
  ++opened_;
  opened_.notify_all();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
  // Where processors are shared by more threads, who spins takes the time of who computes.
  spins_ = workers < usable_processors();
  const SignalsElsewhere guard;
  try {
    threads_.reserve(static_cast<std::size_t>(workers));
    while (static_cast<int>(threads_.size()) < workers) threads_.emplace_back(&WorkerTeam::work, this, life_.load());
  } catch (const std::exception&) {
    // The callers compute what these would have.
  }
}

/// A body's exception must not keep the others from being computed.
void WorkerTeam::Region::work() {
  for (std::int64_t begin = block * next++; begin < size; begin = block * next++) {
    try {
      call(body, begin, std::min(size, begin + block));
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!failure) failure = std::current_exception();
    }
  }
}

bool WorkerTeam::Region::help() {
  if (places.load(std::memory_order_relaxed) <= 0) return false;
  // The order of these two, and of their counterparts in run(), is that of all threads: either this finds it closed, or
  // its caller finds this inside.
  ++inside;
  const bool may = open.load() && places-- > 0;
  if (may) {
    mode.take();
    work();
  }
  if (--inside == 0) inside.notify_one();
  return may;
}

WorkerTeam::Region* WorkerTeam::claim() {
  for (Region& region : regions_) {
    if (!region.owned.load(std::memory_order_relaxed) && !region.owned.exchange(true)) return &region;
  }
  return nullptr;
}

void WorkerTeam::wake(std::int64_t helpers) {
  ++opened_;
  std::int64_t sleeping = sleeping_.load();
  if (sleeping > helpers) {
    for (; helpers > 0; --helpers) opened_.notify_one();
  } else if (sleeping > 0) {
    opened_.notify_all();
  }
}

void WorkerTeam::run(std::int64_t size, std::int64_t block, BlockFunction call, const void* body,
                     std::int64_t helpers) {
  Region* const region = claim();
  if (!region) {
    for (std::int64_t begin = 0; begin < size; begin += block) call(body, begin, std::min(size, begin + block));
    return;
  }
  region->size = size;
  region->block = block;
  region->call = call;
  region->body = body;
  region->mode = FloatingMode::of_this_thread();
  region->next = 0;
  region->places = helpers;
  region->open = true;
  wake(helpers);
  region->work();
  region->places = 0;
  region->open = false;
  const auto alone = [region] { return region->inside.load() == 0; };
  if (!alone() && !(spins_ && spin_until(alone))) {
    for (int inside = region->inside.load(); inside != 0; inside = region->inside.load()) region->inside.wait(inside);
  }
  const std::exception_ptr failure = std::exchange(region->failure, nullptr);
  region->owned = false;
  if (failure) std::rethrow_exception(failure);
}

bool WorkerTeam::help_any() {
  bool helped = false;
  for (Region& region : regions_) helped = region.help() || helped;
  return helped;
}

void WorkerTeam::work(int life) {
  thread_context.in_block = true;
  for (;;) {
    const int seen = opened_.load();
    if (life_.load() != life) return;
    if (help_any()) continue;
    const auto more = [&] { return opened_.load(std::memory_order_relaxed) != seen; };
    if (spins_ && spin_until(more)) continue;
    ++sleeping_;
    opened_.wait(seen);
    --sleeping_;
  }
}

}  // namespace tapecache::detail
