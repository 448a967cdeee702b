#include "work_ahead.h"

#include <atomic>
#include <exception>
#include <limits>
#include <utility>

#include "tapecache/core/parallel_for.h"

namespace tapecache::program {

struct WorkAhead::Job {
  std::int64_t count;
  std::function<void(std::int64_t)> item;
  std::atomic<std::int64_t> next = 0;
  // Under the mutex:
  int running = 0;
  std::int64_t failed = std::numeric_limits<std::int64_t>::max();
  std::exception_ptr exception = {};
};

WorkAhead::WorkAhead(int threads) {
  for (int i = 0; i < threads; ++i) {
    threads_.emplace_back([this] {
      std::uint64_t seen = 0;
      while (true) {
        std::shared_ptr<Job> job;
        {
          std::unique_lock lock(mutex_);
          changed_.wait(lock, [&] { return ends_ || number_ != seen; });
          if (ends_) return;
          seen = number_;
          job = job_;
        }
        if (job) run(job);
      }
    });
  }
}

WorkAhead::~WorkAhead() {
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
    if (job_) job_->next = job_->count;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void WorkAhead::start(std::int64_t count, std::function<void(std::int64_t)> item) {
  auto job = std::make_shared<Job>();
  job->count = count;
  job->item = std::move(item);
  {
    const std::lock_guard lock(mutex_);
    job_ = std::move(job);
    ++number_;
  }
  changed_.notify_all();
}

void WorkAhead::run(const std::shared_ptr<Job>& job) {
  {
    const std::lock_guard lock(mutex_);
    ++job->running;
  }
  for (std::int64_t i = job->next++; i < job->count; i = job->next++) {
    try {
      job->item(i);
    } catch (...) {
      // All before it have begun, so that the first one that fails is always the same.
      const std::lock_guard lock(mutex_);
      if (i < job->failed) {
        job->failed = i;
        job->exception = std::current_exception();
      }
      job->next = job->count;
    }
  }
  {
    const std::lock_guard lock(mutex_);
    --job->running;
  }
  changed_.notify_all();
}

void WorkAhead::finish() {
  std::shared_ptr<Job> job;
  {
    const std::lock_guard lock(mutex_);
    job = std::exchange(job_, nullptr);
  }
  if (!job) return;
  parallel_for(thread_count(), 1, [&](std::int64_t, std::int64_t) { run(job); });
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return job->running == 0; });
  if (job->exception) std::rethrow_exception(job->exception);
}

}  // namespace tapecache::program
