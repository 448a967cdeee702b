#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace tapecache::program {

/// Threads that do a number of independent things while the program does something else. One job at a time.
class WorkAhead {
 public:
  explicit WorkAhead(int threads);
  /// Waits for what has begun, and leaves out the rest.
  ~WorkAhead();
  WorkAhead(const WorkAhead&) = delete;
  WorkAhead& operator=(const WorkAhead&) = delete;

  /// Begins with `item(0)` to `item(count - 1)`. The job before must be finished.
  void start(std::int64_t count, std::function<void(std::int64_t)> item);
  /// Does what is left, on all threads of the library too, and waits for all of it. Throws what the first of the items
  /// that failed threw; those behind it may be left out.
  void finish();

 private:
  struct Job;
  void run(const std::shared_ptr<Job>& job);

  std::mutex mutex_;
  std::condition_variable changed_;
  std::shared_ptr<Job> job_;
  std::uint64_t number_ = 0;  // of the job
  bool ends_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace tapecache::program
