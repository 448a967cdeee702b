#pragma once

#include <mpi.h>

#include <chrono>
#include <deque>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "tapecache/distributed/mpi/notice.h"

#pragma GCC visibility push(hidden)

namespace tapecache::distributed::detail {

/// Sends and receives notices, on a communicator of their own. Every function throws Broken where MPI fails.
class NoticeBox {
 public:
  using Clock = std::chrono::steady_clock;

  struct Arrived {
    Notice notice;
    int from = -1;
  };

  NoticeBox() = default;
  /// Takes `world`, which nothing else is sent on.
  NoticeBox(MPI_Comm world, int rank, int size);
  NoticeBox(const NoticeBox&) = delete;
  NoticeBox& operator=(const NoticeBox&) = delete;
  NoticeBox(NoticeBox&&) = default;
  NoticeBox& operator=(NoticeBox&&) = default;
  ~NoticeBox() = default;

  /// Returns at once; the notice is on its way until `flush` finds it sent.
  void post(const Notice& notice, int to);
  void post_to_others(const Notice& notice);
  /// Returns when all that was posted has been sent, or at `until`.
  void flush(Clock::time_point until);
  /// The next notice that has come, if one has.
  std::optional<Arrived> next();

  /// Why this rank gives up. It takes no memory, the want of which may be the reason.
  void set_last_words(std::string_view why);
  /// Returns when all others have been sent the last words, or at `until`.
  void send_last_words(Clock::time_point until);

  /// Collective. Nothing may be on its way.
  void free();

 private:
  struct Posted {
    MPI_Request request = MPI_REQUEST_NULL;
    std::unique_ptr<Notice> notice;
  };

  MPI_Comm world_ = MPI_COMM_NULL;
  int rank_ = 0, size_ = 1;
  std::deque<Posted> posted_;
  std::unique_ptr<Notice> last_words_;
  std::vector<MPI_Request> last_words_sent_;
};

}  // namespace tapecache::distributed::detail

#pragma GCC visibility pop
