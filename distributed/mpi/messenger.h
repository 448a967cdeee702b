#pragma once

#include <mpi.h>

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "tapecache/distributed/mpi/mpi_calls.h"
#include "tapecache/distributed/mpi/notice.h"

#pragma GCC visibility push(hidden)

namespace tapecache::distributed::detail {

/// What a rank calls.
struct Call {
  const char* name = "";
  std::string what;       ///< of its arguments that every rank's are alike
  int to = -1;            ///< of send_receive
  std::size_t bytes = 0;  ///< of send_receive
};

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
  /// A message that is under way.
  struct Posted {
    MPI_Request request = MPI_REQUEST_NULL;
    std::unique_ptr<Notice> notice;
  };
  /// What this rank called, for who asks.
  struct Made {
    std::uint64_t number = 0;
    std::uint64_t signature = 0;
    Call call;
  };
  /// What another rank has answered.
  struct Answer {
    bool given = false;
    std::uint64_t calls = 0;
    bool in_call = false;
    std::string last;
  };

  void loop();
  void do_call(const std::function<void()>& work);
  void do_leave();
  void wait(MPI_Request* requests, MPI_Status* status, const Sent& sent, const Received& received);
  /// Takes and answers notices, and sends that of a failure.
  void serve();
  void tell_failure();
  void try_to_tell() noexcept;
  void take(const Notice& notice, int from);
  void answer(const Notice& asked, int to);
  void compare(const Notice& answered, int from);
  void post(Notice notice, int to);
  void tell_all(const Notice& notice);
  void flush(Clock::time_point until);
  void ask(int rank);
  void throw_if_failed();
  /// The group has failed, as far as this rank knows first.
  void break_off(std::string why, bool tell);
  std::string overdue() const;
  void abort_if_overdue();

  int rank_ = 0, size_ = 1, largest_tag_ = 0;
  MPI_Comm data_ = MPI_COMM_NULL, control_ = MPI_COMM_NULL;
  const bool serves_idle_;
  const std::chrono::milliseconds limit_;

  // Of the communication thread.
  std::vector<std::byte> pieces_[2];
  // There from the start, since it may be memory that the group fails for.
  std::unique_ptr<Notice> last_words_ = std::make_unique<Notice>();
  std::vector<MPI_Request> last_words_sent_;
  std::deque<Posted> posted_;
  std::deque<Made> made_;
  std::vector<Answer> answers_;
  std::vector<std::int64_t> left_after_;  // calls; -1: has not left
  std::uint64_t calls_ = 0;
  bool in_call_ = false;
  int expected_from_ = -1;  // of send_receive
  std::size_t expected_ = 0;
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
