#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <span>
#include <string>

#include <cuda_runtime.h>

#include "tapecache/distributed/communicator.h"
#include "tapecache/distributed/nccl/nccl_library.h"

#pragma GCC visibility push(hidden)

namespace tapecache::distributed::detail {

/// What NCCL or CUDA says, or what ends a call.
struct NcclFailure {
  std::string message;
};

/// Throws NcclFailure where `function`, which returned this, failed.
void check_nccl(const NcclFunctions& nccl, const char* function, ncclResult_t result);

/// When a call must have ended; never for a limit of 0.
struct Deadline {
  using Clock = std::chrono::steady_clock;
  explicit Deadline(std::chrono::milliseconds given)
      : limit(given), at(given.count() == 0 ? Clock::time_point::max() : Clock::now() + given) {}
  bool has_passed() const { return Clock::now() >= at; }

  std::chrono::milliseconds limit;
  Clock::time_point at;
};

/// A rank's part of a group of NCCL. A call comes after all that the device was given, on a stream of its own, and
/// returns when it is done on this rank; it throws NcclFailure where it fails, is not done at its deadline, or where
/// `failure` says meanwhile that the group is of no use. Then NCCL has given the group up, and is not called again.
/// Pointers are to the device's memory. Sizes are the same on all ranks; none may be 0 but those of single shares.
class NcclGroup {
 public:
  using Failure = std::function<std::string()>;

  /// Collective: `id` is of one rank's ncclGetUniqueId.
  NcclGroup(const NcclFunctions& nccl, int device, int rank, int size, const ncclUniqueId& id, const Deadline& deadline,
            Failure failure);
  NcclGroup(const NcclGroup&) = delete;
  NcclGroup& operator=(const NcclGroup&) = delete;
  /// Does not wait for the others, unless `finish` was called before.
  ~NcclGroup();

  using Sizes = std::span<const std::size_t>;  // one of each rank

  void all_gather(const Deadline& deadline, const std::byte* own, std::byte* all, Sizes bytes);
  void reduce_scatter(const Deadline& deadline, const std::byte* all, std::byte* own, Sizes elements, DType dtype);
  void all_reduce(const Deadline& deadline, std::byte* values, std::size_t elements, DType dtype,
                  Communicator::Reduction reduction);
  void broadcast(const Deadline& deadline, std::byte* values, std::size_t bytes, int root);
  void send_receive(const Deadline& deadline, const std::byte* sent, std::size_t sent_bytes, int to,
                    std::byte* received, std::size_t received_bytes, int from);

  /// Collective: waits until NCCL has sent what it was given, and ends its group.
  void finish(const Deadline& deadline);
  /// Stops what NCCL does.
  void abort() noexcept;

 private:
  /// Has NCCL do the calls that `enqueue` makes, which it hands to the function that it is given.
  template <class Enqueue>
  void run(const Deadline& deadline, Enqueue enqueue);
  template <class IsDone>
  void wait_until(const Deadline& deadline, IsDone has_ended);
  bool is_ready() const;
  bool is_done() const;
  void release() noexcept;

  const NcclFunctions& nccl_;
  const int device_, rank_;
  const Failure failure_;
  ncclComm_t comm_ = nullptr;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t before_ = nullptr, after_ = nullptr;
};

}  // namespace tapecache::distributed::detail

#pragma GCC visibility pop
