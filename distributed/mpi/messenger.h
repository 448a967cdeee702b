#pragma once

#include <mpi.h>

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "tapecache/distributed/mpi/call_log.h"
#include "tapecache/distributed/mpi/mpi_calls.h"
#include "tapecache/distributed/mpi/notice_box.h"

#pragma GCC visibility push(hidden)

namespace tapecache::distributed::detail {

/// What is sent to one rank; to -1: nothing.
struct Sent {
  const std::byte* data = nullptr;
  std::size_t bytes = 0;
  int to = -1;
};

/// What is received from one rank, piece by piece, in order; from -1: nothing. `take` is told where the piece begins.
struct Received {
  std::size_t bytes = 0;
  int from = -1;
  std::function<void(std::size_t begin, const std::byte* piece, std::size_t bytes)> take;
};

/// The communication thread of a process, and what it sends and receives. MPI may not move a byte while nobody calls
/// it, so the thread polls, which lets it give up at a deadline, and answer other ranks while the program computes.
///
/// What arrives goes through memory of the messenger: a call that was given up may leave a receive behind, and its
/// caller's memory must be free to go.
class Messenger {
 public:
  using Clock = std::chrono::steady_clock;

  /// Collective. Copies `world`; throws Broken.
  Messenger(MPI_Comm world, bool serves_idle, std::chrono::milliseconds limit);
  Messenger(const Messenger&) = delete;
  Messenger& operator=(const Messenger&) = delete;
  ~Messenger() = default;

  int rank() const { return rank_; }
  int size() const { return size_; }

  /// Does `work` on the communication thread, where it may `transfer`. Throws CommunicationError.
  void run(Call call, const std::function<void()>& work);
  /// Tells all others that this rank gives up. Returns when they have been told, or after a second.
  void fail(std::string_view why) noexcept;
  /// Why the group has failed, as far as this rank has heard; empty while it has not.
  std::string failure() const;
  /// Tells the others that this rank makes no more calls, waits for them to say so too, and ends the thread. Returns
  /// why the group has failed, if it has.
  std::string leave();

  /// Both at once. With `even_empty` a message is sent and awaited where there are 0 bytes too, and who is sent another
  /// number of bytes than it expects finds out.
  void transfer(const Sent& sent, const Received& received, bool even_empty = false);

 private:
  void loop();
  void do_call(const std::function<void()>& work);
  void do_leave();
  void wait(MPI_Request* requests, MPI_Status* status, const Sent& sent, const Received& received);
  /// Takes and answers notices, and sends that of a failure.
  void serve();
  void tell_failure();
  void try_to_tell() noexcept;
  void take(const Notice& notice, int from);
  void ask(int rank);
  void throw_if_failed();
  /// The group has failed, as far as this rank knows first.
  void break_off(std::string why, bool tell);
  std::string overdue() const;
  void abort_if_overdue();

  int rank_ = 0, size_ = 1, largest_tag_ = 0;
  MPI_Comm data_ = MPI_COMM_NULL;
  const bool serves_idle_;
  const std::chrono::milliseconds limit_;

  // Of the communication thread.
  std::vector<std::byte> pieces_[2];
  NoticeBox notices_;
  CallLog log_;
  Clock::time_point deadline_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  const std::function<void()>* work_ = nullptr;
  Call call_;
  std::string error_;   // of the call
  std::string failed_;  // why the group is of no use; empty while it is
  Clock::time_point failed_at_;
  bool tells_ = false, leaves_ = false, ended_ = false;
  std::thread thread_;
};

}  // namespace tapecache::distributed::detail

#pragma GCC visibility pop
