#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <numeric>
#include <span>
#include <vector>

#include "tapecache/core/tensor.h"
#include "tapecache/distributed/communicator.h"

namespace tapecache::program {

/// How many processes a launcher of MPI or SLURM started together with this one, as their environment says; 1 where
/// none did.
int launched_processes();

/// Things that are shared out among processes: the first process's, the second's, and so on.
struct Shares {
  std::vector<std::int64_t> counts = {};  ///< how many each process has
  int rank = 0;                           ///< this process

  static Shares alone(std::int64_t count) { return {{count}, 0}; }
  std::int64_t own() const { return counts[static_cast<std::size_t>(rank)]; }
  /// Where this process's begin.
  std::int64_t begin() const { return std::accumulate(counts.begin(), counts.begin() + rank, std::int64_t{0}); }
  std::int64_t total() const { return std::accumulate(counts.begin(), counts.end(), std::int64_t{0}); }
  /// This process's of all.
  template <class T>
  std::span<const T> of(const std::vector<T>& all) const {
    return std::span(all).subspan(static_cast<std::size_t>(begin()), static_cast<std::size_t>(own()));
  }
};

/// The processes that take part in a run: this one alone, or those that a launcher started together. Calls are
/// collective, but for what a process asks of itself.
class ProcessGroup {
 public:
  /// This process alone.
  ProcessGroup() = default;
  /// All that the launcher started with this one; calls wait for the others no longer than `limit`. Throws ValueError
  /// where they cannot find each other: without MPI, or by a launcher of another MPI; CommunicationError.
  static ProcessGroup launched(std::chrono::seconds limit);

  int rank() const { return communicator_ ? communicator_->rank() : 0; }
  int size() const { return communicator_ ? communicator_->size() : 1; }
  /// Of one process alone, which shows and writes.
  bool is_first() const { return rank() == 0; }
  /// For a step; null where there is one process.
  distributed::Communicator* communicator() const { return communicator_.get(); }

  /// Does what may fail on some processes alone, and throws FailedTogether on all where it does. Not for what calls the
  /// others.
  void together(const std::function<void()>& work) const;
  /// What the first process does when all have come; all go on when it is done. Throws as `together`.
  void on_first(const std::function<void()>& work) const;

  /// So many things, shared evenly.
  Shares shares(std::int64_t total) const;
  /// The rows of all processes, where each has its share of them.
  Tensor gathered(const Tensor& rows, const Shares& shares) const;
  /// Puts in the place of each number the largest that any process has, or the smallest.
  void take_largest(std::span<std::int64_t> numbers) const;
  void take_smallest(std::span<std::int64_t> numbers) const;

  /// Runs a command that all take part in, and gives the exit code. What fails is told on standard error: once, where
  /// it failed on all.
  int run(const std::function<int()>& command) const;

 private:
  std::unique_ptr<distributed::Communicator> communicator_;
};

}  // namespace tapecache::program
