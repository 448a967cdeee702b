#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <mutex>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "tapecache/distributed/communicator.h"
#include "tapecache/distributed/exception_text.h"
#include "tapecache/distributed/time_limit.h"

namespace tapecache::distributed {

namespace {

/// What a rank brings to a call.
struct Part {
  const char* call = "";
  std::string what;  // must be the same on every rank
  const std::byte* read = nullptr;
  std::byte* written = nullptr;
  std::size_t bytes = 0;         // that are sent in a ring
  std::size_t bytes_wanted = 0;  // of a ring
  int to = -1;                   // of a ring
  int from = -1;                 // of a ring
};

/// Where the threads meet. A call is done between two meetings: when all have come, each reads what the others brought
/// and writes its part, and none leaves before all have done so.
class Meeting {
 public:
  explicit Meeting(int size) : parts_(static_cast<std::size_t>(size)) { present_.reserve(parts_.size()); }

  /// Returns an error where the call cannot be done, which it then is for all.
  std::string enter(int rank, Part part, std::chrono::milliseconds limit) {
    std::unique_lock lock(mutex_);
    if (error_.empty() && gone_ >= 0) end(fmt::format("rank {} has returned", gone_));
    if (!error_.empty()) return error_;
    parts_[static_cast<std::size_t>(rank)] = std::move(part);
    present_.push_back(rank);
    const std::uint64_t round = entered_;
    if (present_.size() == parts_.size()) {
      error_ = misfit();
      present_.clear();
      ++entered_;
      changed_.notify_all();
      return error_;
    }
    const auto is_over = [&] { return entered_ != round || !error_.empty(); };
    if (limit.count() == 0) changed_.wait(lock, is_over);
    else if (!changed_.wait_for(lock, limit, is_over)) end(absent(rank, limit));
    return error_;
  }

  /// Nothing here can be waited for in vain: all others are at work or done.
  void leave() {
    std::unique_lock lock(mutex_);
    const std::uint64_t round = left_;
    if (++leaving_ == parts_.size()) {
      leaving_ = 0;
      ++left_;
      changed_.notify_all();
      return;
    }
    changed_.wait(lock, [&] { return left_ != round; });
  }

  void fail(int rank, std::string_view why) noexcept {
    const std::lock_guard lock(mutex_);
    if (!error_.empty()) return;
    try {
      end(fmt::format("rank {} gave up: {}", rank, why));
    } catch (const std::bad_alloc&) {
      end("a rank gave up");
    }
  }

  /// A rank will make no more calls.
  void go(int rank) {
    const std::lock_guard lock(mutex_);
    gone_ = rank;
    if (!present_.empty() && error_.empty()) end(fmt::format("rank {} has returned", rank));
  }

  std::string failure() const {
    const std::lock_guard lock(mutex_);
    return error_;
  }

  const Part& part(std::size_t rank) const { return parts_[rank]; }
  std::size_t size() const { return parts_.size(); }

 private:
  void end(std::string error) {
    error_ = std::move(error);
    changed_.notify_all();
  }

  std::string absent(int waiting, std::chrono::milliseconds limit) const {
    std::string ranks;
    for (int rank = 0; rank < static_cast<int>(parts_.size()); ++rank) {
      if (std::find(present_.begin(), present_.end(), rank) == present_.end()) {
        ranks += fmt::format("{}{}", ranks.empty() ? "" : ", ", rank);
      }
    }
    return fmt::format("rank {} has waited {} ms in {} for rank {}", waiting, limit.count(),
                       parts_[static_cast<std::size_t>(waiting)].call, ranks);
  }

  std::string misfit() const {
    for (std::size_t rank = 0; rank < parts_.size(); ++rank) {
      const Part& part = parts_[rank];
      if (std::strcmp(part.call, parts_[0].call) != 0 || part.what != parts_[0].what) {
        return fmt::format("rank {} calls {}{}, but rank 0 {}{}", rank, part.call, part.what, parts_[0].call,
                           parts_[0].what);
      }
      if (part.from < 0) continue;
      const Part& sender = parts_[static_cast<std::size_t>(part.from)];
      if (sender.to != static_cast<int>(rank) || sender.bytes != part.bytes_wanted) {
        return fmt::format("rank {} is to receive {} bytes from rank {}, which sends {} to rank {}", rank,
                           part.bytes_wanted, part.from, sender.bytes, sender.to);
      }
    }
    return {};
  }

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Part> parts_;
  std::vector<int> present_;
  std::size_t leaving_ = 0;
  int gone_ = -1;
  std::uint64_t entered_ = 0, left_ = 0;
  std::string error_;
};

template <class T>
T larger(T a, T b) {
  return b > a ? b : a;
}

/// Whole numbers wrap around, as MPI's and NCCL's do.
template <class T>
T sum(T a, T b) {
  if constexpr (std::is_integral_v<T>) {
    return static_cast<T>(static_cast<std::make_unsigned_t<T>>(a) + static_cast<std::make_unsigned_t<T>>(b));
  } else {
    return a + b;
  }
}

/// Elements [begin, end) of all ranks' arrays, joined in rank order, into `target`, or to their places in all ranks'
/// arrays where that is null.
template <class T>
void reduce_elements(const Meeting& meeting, std::size_t begin, std::size_t end, Communicator::Reduction reduction,
                     std::byte* target) {
  constexpr std::size_t kBlock = 512;
  T block[kBlock];
  for (std::size_t first = begin; first < end; first += kBlock) {
    const std::size_t count = std::min(kBlock, end - first);
    for (std::size_t rank = 0; rank < meeting.size(); ++rank) {
      const T* const values = reinterpret_cast<const T*>(meeting.part(rank).read) + first;
      if (rank == 0) {
        std::copy_n(values, count, block);
      } else if (reduction == Communicator::Reduction::kSum) {
        for (std::size_t i = 0; i < count; ++i) block[i] = sum(block[i], values[i]);
      } else {
        for (std::size_t i = 0; i < count; ++i) block[i] = larger(block[i], values[i]);
      }
    }
    if (target != nullptr) {
      std::copy_n(block, count, reinterpret_cast<T*>(target) + (first - begin));
    } else {
      for (std::size_t rank = 0; rank < meeting.size(); ++rank) {
        std::copy_n(block, count, reinterpret_cast<T*>(meeting.part(rank).written) + first);
      }
    }
  }
}

void reduce(DType dtype, const Meeting& meeting, std::size_t begin, std::size_t end, Communicator::Reduction reduction,
            std::byte* target) {
  if (dtype == DType::kFloat32) reduce_elements<float>(meeting, begin, end, reduction, target);
  else if (dtype == DType::kFloat64) reduce_elements<double>(meeting, begin, end, reduction, target);
  else reduce_elements<std::int64_t>(meeting, begin, end, reduction, target);
}

class ThreadCommunicator final : public Communicator {
 public:
  ThreadCommunicator(Meeting& meeting, int rank, std::chrono::milliseconds limit)
      : Communicator(rank, static_cast<int>(meeting.size()), limit), meeting_(meeting) {}

  std::string name() const override { return "threads"; }
  std::string failure() const override { return meeting_.failure(); }
  void fail(std::string_view why) noexcept override { meeting_.fail(rank(), why); }

 private:
  /// `work` does this rank's part of the call.
  template <class Work>
  void meet(Part part, Work work) {
    const char* const call = part.call;
    const std::string error = meeting_.enter(rank(), std::move(part), limit());
    if (!error.empty()) throw CommunicationError(call, name(), rank(), size(), error);
    work();
    meeting_.leave();
  }

  std::size_t self() const { return static_cast<std::size_t>(rank()); }

  void do_all_gather(const Tensor& rows, Tensor& all, std::span<const std::int64_t> counts) override {
    const Part part{.call = "all_gather",
                    .what = fmt::format(" into {}, shares [{}]", describe(all), fmt::join(counts, ", ")),
                    .read = rows.raw()};
    std::byte* to = all.mutable_raw();
    const std::size_t row = all.bytes() / static_cast<std::size_t>(all.size(0));
    meet(part, [&] {
      for (std::size_t r = 0; r < counts.size(); ++r) {
        const std::size_t bytes = static_cast<std::size_t>(counts[r]) * row;
        if (bytes > 0) std::memcpy(to, meeting_.part(r).read, bytes);
        to += bytes;
      }
    });
  }

  void do_reduce_scatter(const Tensor& all, Tensor& rows, std::span<const std::int64_t> counts) override {
    const Part part{.call = "reduce_scatter",
                    .what = fmt::format(" of {}, shares [{}]", describe(all), fmt::join(counts, ", ")),
                    .read = all.raw()};
    std::byte* const to = rows.mutable_raw();
    const std::size_t row = static_cast<std::size_t>(all.numel() / all.size(0));
    std::size_t begin = 0;
    for (std::size_t r = 0; r < self(); ++r) begin += static_cast<std::size_t>(counts[r]) * row;
    meet(part, [&] {
      reduce(all.dtype(), meeting_, begin, begin + static_cast<std::size_t>(rows.numel()), Reduction::kSum, to);
    });
  }

  /// Each rank adds a part of the elements, and hands it out.
  void do_all_reduce(Tensor& values, Reduction reduction) override {
    std::byte* const own = values.mutable_raw();
    const Part part{
        .call = "all_reduce",
        .what = fmt::format(" of {}, {}", describe(values), reduction == Reduction::kSum ? "sum" : "maximum"),
        .read = own,
        .written = own};
    const auto elements = static_cast<std::size_t>(values.numel());
    meet(part, [&] {
      const std::size_t begin = elements * self() / meeting_.size(), end = elements * (self() + 1) / meeting_.size();
      reduce(values.dtype(), meeting_, begin, end, reduction, nullptr);
    });
  }

  void do_broadcast(Tensor& values, int root) override {
    std::byte* const own = values.mutable_raw();
    const Part part{.call = "broadcast", .what = fmt::format(" of {} from {}", describe(values), root), .read = own};
    meet(part, [&] {
      if (rank() != root) std::memcpy(own, meeting_.part(static_cast<std::size_t>(root)).read, values.bytes());
    });
  }

  void do_send_receive(const Tensor& sent, int to, Tensor& received, int from) override {
    std::byte* const own = received.mutable_raw();
    const Part part{.call = "send_receive",
                    .what = {},
                    .read = sent.raw(),
                    .bytes = sent.bytes(),
                    .bytes_wanted = received.bytes(),
                    .to = to,
                    .from = from};
    meet(part, [&] {
      if (received.bytes() > 0) {
        std::memcpy(own, meeting_.part(static_cast<std::size_t>(from)).read, received.bytes());
      }
    });
  }

  void do_barrier() override {
    meet({.call = "barrier", .what = {}}, [] {});
  }

  Meeting& meeting_;
};

}  // namespace

void run_in_threads(int size, const std::function<void(Communicator&)>& function, std::chrono::milliseconds limit) {
  if (size < 1) throw ValueError(fmt::format("run_in_threads: {} ranks, expected at least 1", size));
  detail::check_limit("run_in_threads", limit);
  Meeting meeting(size);
  if (size == 1) {
    ThreadCommunicator alone(meeting, 0, limit);
    function(alone);
    return;
  }
  std::mutex mutex;
  std::exception_ptr first;
  const auto run = [&](int rank) {
    ThreadCommunicator communicator(meeting, rank, limit);
    try {
      function(communicator);
      meeting.go(rank);
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!first) first = std::current_exception();
      detail::give_up(communicator);
    }
  };
  std::vector<std::thread> threads;
  try {
    for (int rank = 0; rank < size; ++rank) threads.emplace_back(run, rank);
  } catch (const std::exception& error) {
    meeting.fail(static_cast<int>(threads.size()), error.what());
    first = std::current_exception();
  }
  for (std::thread& thread : threads) thread.join();
  if (first) std::rethrow_exception(first);
}

}  // namespace tapecache::distributed
