#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "tapecache/core/floating_mode.h"
#include "tapecache/core/parallel_for.h"

#pragma GCC visibility push(hidden)

namespace tapecache::detail {

/// Threads that take blocks of the regions that are open, beside the threads that opened them. Between two regions they
/// look for the next one for a short while before they sleep: waking a thread takes longer than many a region.
class WorkerTeam {
 public:
  /// Asks for `workers` threads, and has fewer where the system gives no more. Those that there were end first, each
  /// with the block that it is at.
  void resize(int workers);
  /// Computes all blocks, with at most `helpers` of the team; alone where as many regions are open as there may be.
  void run(std::int64_t size, std::int64_t block, BlockFunction call, const void* body, std::int64_t helpers);

 private:
  static constexpr int kRegions = 8;

  /// Of one caller at a time. The team never ends, so that who comes late finds a closed region, not none.
  struct alignas(64) Region {
    std::atomic<bool> owned = false;
    std::atomic<std::int64_t> places = 0;  // for helpers
    std::atomic<bool> open = false;
    std::atomic<int> inside = 0;  // helpers that may read what follows
    alignas(64) std::atomic<std::int64_t> next = 0;
    std::int64_t size = 0, block = 0;
    BlockFunction call = nullptr;
    const void* body = nullptr;
    FloatingMode mode = FloatingMode::of_this_thread();  // of the caller, so that its blocks are the same on any thread
    std::mutex mutex;
    std::exception_ptr failure;

    void work();
    /// Returns whether there was a place.
    bool help();
  };

  Region* claim();
  void wake(std::int64_t helpers);
  bool help_any();
  void work(int life);

  Region regions_[kRegions];
  std::vector<std::thread> threads_;
  std::atomic<bool> spins_ = false;
  alignas(64) std::atomic<int> opened_ = 0;  // counts regions; what sleeping workers wait for
  std::atomic<int> sleeping_ = 0;
  std::atomic<int> life_ = 0;  // a worker of an earlier one ends
};

}  // namespace tapecache::detail

#pragma GCC visibility pop
