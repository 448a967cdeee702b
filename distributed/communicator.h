#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "tapecache/core/error.h"
#include "tapecache/core/tensor.h"

/// Several processes, or threads, that take one step together.
namespace tapecache::distributed {

/// A collective call that did not come off: a rank that left, failed, was late or called something else, or an error of
/// the backend. The message names the call, the backend, this rank and what the backend says. The group is of no use
/// from then on: each later call throws as well.
class CommunicationError : public Error {
 public:
  CommunicationError(std::string_view call, std::string_view backend, int rank, int size, std::string_view message);

  const std::string& call() const { return call_; }
  int rank() const { return rank_; }

 private:
  std::string call_;
  int rank_;
};

/// A group of ranks that call each other. All its calls but `fail` are collective: every rank makes the same calls, in
/// the same order, with arguments that fit one another, and none returns before its own part is done. No call is a
/// barrier unless it says so.
///
/// Tensors. They are in the host's memory, or on a device that the backend takes. Every rank's have the same type and,
/// but for the axis that the ranks share out, the same shape. A share may be empty (0 rows, of a defined tensor), all
/// of them too. No call allocates what its results are in, so that memory that is short is known before the call: an
/// argument that is written is the caller's and of the right size. What is written may not overlap what is read.
///
/// Results. Every rank has the same bits of what all have: a backend whose library does not promise that for sums adds
/// on one rank and hands out. The order of additions is the backend's, and the same each time for the same sizes and
/// number of ranks; that of threads is by rank.
///
/// Errors. What this rank can tell to be wrong throws ShapeError, DTypeError, DeviceError or ValueError before anything
/// is sent: the others wait, so whoever gives up calls `fail`. Everything else is a CommunicationError. A call ends
/// within `limit` of the moment when the rank made it, done or with an error, on every rank that is able to run.
///
/// One call at a time, from any thread; a step calls from threads of its own too, until it returns. Who calls while
/// another thread's call runs ends the group, and both calls with a CommunicationError that names them. In a group of
/// one nothing is sent, and no backend is asked.
class Communicator {
 public:
  enum class Reduction { kSum, kMax };

  /// What `agree` finds: the largest status of all ranks, and who has it.
  struct Agreed {
    int status = 0;
    int rank = 0;         ///< the lowest rank of that status; 0 where all have 0
    std::string message;  ///< that rank's, in full or its first 2,000 bytes; empty where all have 0
  };

  virtual ~Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  /// Of the backend, for messages: "threads", "mpi", "nccl".
  virtual std::string name() const = 0;
  int rank() const { return rank_; }
  int size() const { return size_; }
  /// Longest wait of a call for the others, up to a year; 0: none, and they wait for ever.
  std::chrono::milliseconds limit() const { return limit_; }
  /// Whether tensors may be on this device. The host's always may.
  virtual bool takes(Device device) const { return device == Device::cpu(); }
  /// Why the group is of no use, as far as this rank has heard; empty while it is. Not collective, and asks nobody.
  virtual std::string failure() const { return {}; }

  /// Rows of axis 0 of all ranks, in rank order, in `all`. `counts` are the rows of each rank and the same on all of
  /// them; `rows` are this rank's. Any type.
  void all_gather(const Tensor& rows, Tensor& all, std::span<const std::int64_t> counts);
  /// The opposite: `all` of all ranks are added, and `rows` are this rank's `counts[rank]` of the sum. f32, f64, i64.
  void reduce_scatter(const Tensor& all, Tensor& rows, std::span<const std::int64_t> counts);
  /// Element by element, over all ranks and in place. f32, f64, i64. A NaN in any is a NaN in the sum; of a maximum it
  /// is not said. Sums of i64 wrap around.
  void all_reduce(Tensor& values, Reduction reduction = Reduction::kSum);
  /// What rank `root` holds, in place. Any type.
  void broadcast(Tensor& values, int root);
  /// Sends to rank `to` and receives from rank `from`, which may be the same, both at once: where all shift by one, a
  /// ring. Every rank makes the call, is sent to by one rank, and its `received` is as large as what that sends; shapes
  /// may differ from rank to rank. Any type, and both on one device.
  void send_receive(const Tensor& sent, int to, Tensor& received, int from);
  /// Returns when all have entered it.
  void barrier();
  /// What the worst off of all ranks says: `status` is 0 for well, and larger is worse, up to 2^20. One small
  /// `all_reduce` where all is well, and a `broadcast` of the message more where it is not.
  Agreed agree(int status, std::string_view message = {});

  /// Not collective: this rank gives up, and every call of the others, those that wait in one too, ends with a
  /// CommunicationError that names this rank and `why`. A backend that cannot tell them ends their processes.
  virtual void fail(std::string_view why) noexcept = 0;

  /// What those who take steps with this group know of it from one to the next: theirs alone.
  std::shared_ptr<void>& notes() { return notes_; }

 protected:
  /// Throws ValueError for a size below 1, a rank outside it, a limit below 0 or above a year.
  Communicator(int rank, int size, std::chrono::milliseconds limit);

  /// The same calls behind the checks: two ranks at least, something to send, arguments of the right sizes, types and
  /// devices on this rank. They throw CommunicationError alone.
  virtual void do_all_gather(const Tensor& rows, Tensor& all, std::span<const std::int64_t> counts) = 0;
  virtual void do_reduce_scatter(const Tensor& all, Tensor& rows, std::span<const std::int64_t> counts) = 0;
  virtual void do_all_reduce(Tensor& values, Reduction reduction) = 0;
  virtual void do_broadcast(Tensor& values, int root) = 0;
  /// Either tensor may be empty, on some ranks alone.
  virtual void do_send_receive(const Tensor& sent, int to, Tensor& received, int from) = 0;
  virtual void do_barrier() = 0;

 private:
  class Calling;

  void check(const char* call, const char* argument, const Tensor& tensor) const;
  void check_shares(const char* call, const Tensor& rows, const Tensor& all,
                    std::span<const std::int64_t> counts) const;
  void check_rank(const char* call, const char* argument, int rank) const;

  int rank_, size_;
  std::chrono::milliseconds limit_;
  std::shared_ptr<void> notes_;
  std::atomic<const char*> calling_{nullptr};  // the call that runs
};

/// The same ranks with tensors on a CUDA device as well, which NCCL moves and adds: a communicator that takes `device`,
/// of each rank its own. Tensors of the host, `barrier`, `agree` and `fail` go to `ranks`, which must outlive it. By
/// `ranks` all meet before each call of NCCL too, in one `all_reduce` of 16 bytes, so that who is late, gives up or
/// calls something else is known by name; then NCCL does its part on a stream of its own, after all that the device was
/// given before, and the host waits for it, until the limit that `ranks` has at most. What NCCL reports, or a call that
/// does not end, ends `ranks` too.
///
/// Collective. libnccl.so.2 is looked for when this is first called, version 2.14 or newer; sums by NVLink's switches,
/// which are other bits each time, are turned off in this process (NCCL_NVLS_ENABLE=0). A group of one needs no NCCL.
/// Throws DeviceError on every rank where one has no such device or cannot use NCCL, and `ranks` goes on as it was;
/// CommunicationError where NCCL cannot connect them.
std::unique_ptr<Communicator> over_nccl(Communicator& ranks, Device device);

/// Rank 0 does it when all have come, and all go on when it is done: a checkpoint is written so. Where it throws, all
/// do, the others an Error that says what.
void on_rank_0(Communicator& ranks, const std::function<void()>& work);

/// Runs `function` on so many threads, each a rank of one group: several processes without a launcher, for tests and
/// debugging. The first that throws ends the calls of the others, and when all have returned, its exception is thrown
/// here. A rank that does not return is waited for: only calls of the communicator have a limit. The threads share one
/// pool of workers and everything that is not of a thread; each has its own random state, tape and `Autocast`. The rank
/// of a group of one is the caller's thread. Throws ValueError for fewer than 1, and for a limit that no communicator
/// has.
void run_in_threads(int size, const std::function<void(Communicator&)>& function,
                    std::chrono::milliseconds limit = std::chrono::minutes(10));

}  // namespace tapecache::distributed
