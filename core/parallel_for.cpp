#include "tapecache/core/parallel_for.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>

#include <fmt/format.h>
#include <unsupported/Eigen/CXX11/ThreadPool>

#include "tapecache/core/error.h"

namespace tapecache {

namespace {

int processors() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

struct Pool {
  std::mutex mutex;
  int threads = processors();
  std::shared_ptr<Eigen::ThreadPool> workers;  // threads - 1 of them: the caller works too

  std::shared_ptr<Eigen::ThreadPool> get(int& count) {
    std::lock_guard lock(mutex);
    count = threads;
    if (threads > 1 && !workers) workers = std::make_shared<Eigen::ThreadPool>(threads - 1);
    return workers;
  }
};

Pool& pool() {
  // Never destroyed: worker threads must not be joined while a host program's statics are torn down.
  static Pool* instance = new Pool;
  return *instance;
}

thread_local bool inside_body = false;

struct InsideBody {
  bool outer = inside_body;
  InsideBody() { inside_body = true; }
  ~InsideBody() { inside_body = outer; }
};

}  // namespace

void set_thread_count(int count) {
  if (count < 1 || count > 1024) {
    throw ValueError(fmt::format("set_thread_count: {} threads, expected 1 to 1024", count));
  }
  Pool& p = pool();
  std::lock_guard lock(p.mutex);
  if (count == p.threads) return;
  p.workers.reset();
  p.threads = count;
}

int thread_count() {
  Pool& p = pool();
  std::lock_guard lock(p.mutex);
  return p.threads;
}

void detail::run_blocks(std::int64_t size, std::int64_t block, BlockFunction call, const void* body) {
  if (size <= 0) return;
  block = std::max<std::int64_t>(1, block);
  const std::int64_t blocks = (size + block - 1) / block;
  const auto run = [=](std::int64_t i) { call(body, i * block, std::min(size, (i + 1) * block)); };

  int threads = 1;
  std::shared_ptr<Eigen::ThreadPool> workers;
  if (blocks > 1 && !inside_body) workers = pool().get(threads);
  if (threads == 1) {
    const InsideBody guard;
    for (std::int64_t i = 0; i < blocks; ++i) run(i);
    return;
  }

  // Shared with the helpers: one that is scheduled late finds no block left and must still find this alive.
  struct Shared {
    std::atomic<std::int64_t> next{0};
    std::atomic<std::int64_t> done{0};
    std::mutex mutex;
    std::exception_ptr failure;
  };
  auto shared = std::make_shared<Shared>();
  const auto work = [shared, blocks, run] {
    const InsideBody guard;
    for (std::int64_t i = shared->next++; i < blocks; i = shared->next++) {
      try {
        run(i);
      } catch (...) {
        std::lock_guard lock(shared->mutex);
        if (!shared->failure) shared->failure = std::current_exception();
      }
      ++shared->done;
    }
  };
  const auto helpers = std::min<std::int64_t>(threads, blocks) - 1;
  for (std::int64_t i = 0; i < helpers; ++i) workers->Schedule(work);
  work();
  while (shared->done.load() < blocks) std::this_thread::yield();
  if (shared->failure) std::rethrow_exception(shared->failure);
}

}  // namespace tapecache
