#include "tapecache/distributed/communicator.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <numeric>

#include <fmt/format.h>

#include "tapecache/distributed/exception_text.h"
#include "tapecache/distributed/time_limit.h"

namespace tapecache::distributed {

namespace {

/// What is left of a shape when rows have been taken away.
Shape row_shape(const Tensor& rows) { return rows.shape().with(0, 1); }

void check_apart(const char* call, const Tensor& read, const Tensor& written) {
  if (read.numel() == 0 || written.numel() == 0 || !read.shares_storage(written)) return;
  if (read.offset() + read.bytes() <= written.offset() || written.offset() + written.bytes() <= read.offset()) return;
  throw ValueError(fmt::format("{}: what is written overlaps what is read", call));
}

void check_addable(const char* call, const Tensor& values) {
  const DType dtype = values.dtype();
  if (dtype == DType::kFloat32 || dtype == DType::kFloat64 || dtype == DType::kInt64) return;
  throw DTypeError(fmt::format("{}: {}, expected float32, float64 or int64", call, describe(values)));
}

}  // namespace

CommunicationError::CommunicationError(std::string_view call, std::string_view backend, int rank, int size,
                                       std::string_view message)
    : Error(fmt::format("{} ({}, rank {} of {}): {}", call, backend, rank, size, message)), call_(call), rank_(rank) {}

Communicator::Communicator(int rank, int size, std::chrono::milliseconds limit)
    : rank_(rank), size_(size), limit_(limit) {
  if (size < 1) throw ValueError(fmt::format("communicator: {} ranks, expected at least 1", size));
  if (rank < 0 || rank >= size)
    throw ValueError(fmt::format("communicator: rank {}, expected 0 to {}", rank, size - 1));
  detail::check_limit("communicator", limit);
}

/// While a call runs. The others cannot tell in which order two of them are made.
class Communicator::Calling {
 public:
  Calling(Communicator& ranks, const char* call) : ranks_(ranks) {
    const char* running = nullptr;
    if (ranks.calling_.compare_exchange_strong(running, call)) return;
    const std::string why =
        fmt::format("another thread of this rank is in {}, and one call at a time can be made", running);
    ranks.fail(fmt::format("{}: {}", call, why));
    throw CommunicationError(call, ranks.name(), ranks.rank(), ranks.size(), why);
  }
  ~Calling() { ranks_.calling_ = nullptr; }
  Calling(const Calling&) = delete;
  Calling& operator=(const Calling&) = delete;

 private:
  Communicator& ranks_;
};

void Communicator::check(const char* call, const char* argument, const Tensor& tensor) const {
  if (!tensor.defined()) throw ValueError(fmt::format("{}: '{}' is undefined", call, argument));
  if (takes(tensor.device())) return;
  throw DeviceError(fmt::format("{}: '{}' is {}, which {} does not take", call, argument, describe(tensor), name()));
}

void Communicator::check_rank(const char* call, const char* argument, int rank) const {
  if (rank >= 0 && rank < size_) return;
  throw ValueError(fmt::format("{}: '{}' is rank {}, expected 0 to {}", call, argument, rank, size_ - 1));
}

void Communicator::check_shares(const char* call, const Tensor& rows, const Tensor& all,
                                std::span<const std::int64_t> counts) const {
  check(call, "rows", rows);
  check(call, "all", all);
  if (counts.size() != static_cast<std::size_t>(size_)) {
    throw ValueError(fmt::format("{}: {} counts, expected one for each of {} ranks", call, counts.size(), size_));
  }
  std::int64_t total = 0;
  for (const std::int64_t count : counts) {
    if (count < 0) throw ValueError(fmt::format("{}: a count of {} rows, expected at least 0", call, count));
    if (__builtin_add_overflow(total, count, &total)) {
      throw ValueError(fmt::format("{}: the counts of rows together exceed 2^63 - 1", call));
    }
  }
  const std::int64_t own = counts[static_cast<std::size_t>(rank_)];
  if (rows.rank() == 0 || all.rank() == 0 || rows.size(0) != own || all.size(0) != total ||
      row_shape(rows) != row_shape(all)) {
    throw ShapeError(fmt::format("{}: rows {} and all {}, expected {} rows here and {} of all, alike", call,
                                 describe(rows), describe(all), own, total));
  }
  if (rows.dtype() != all.dtype() || rows.device() != all.device()) {
    throw DTypeError(
        fmt::format("{}: rows {} and all {}, expected one type and device", call, describe(rows), describe(all)));
  }
}

void Communicator::all_gather(const Tensor& rows, Tensor& all, std::span<const std::int64_t> counts) {
  check_shares("all_gather", rows, all, counts);
  check_apart("all_gather", rows, all);
  if (size_ == 1) {
    all.copy_from(rows);
    return;
  }
  if (all.numel() == 0) return;
  const Calling calling(*this, "all_gather");
  do_all_gather(rows, all, counts);
}

void Communicator::reduce_scatter(const Tensor& all, Tensor& rows, std::span<const std::int64_t> counts) {
  check_shares("reduce_scatter", rows, all, counts);
  check_addable("reduce_scatter", all);
  check_apart("reduce_scatter", all, rows);
  if (size_ == 1) {
    rows.copy_from(all);
    return;
  }
  if (all.numel() == 0) return;
  const Calling calling(*this, "reduce_scatter");
  do_reduce_scatter(all, rows, counts);
}

void Communicator::all_reduce(Tensor& values, Reduction reduction) {
  check("all_reduce", "values", values);
  check_addable("all_reduce", values);
  if (size_ == 1 || values.numel() == 0) return;
  const Calling calling(*this, "all_reduce");
  do_all_reduce(values, reduction);
}

void Communicator::broadcast(Tensor& values, int root) {
  check("broadcast", "values", values);
  check_rank("broadcast", "root", root);
  if (size_ == 1 || values.numel() == 0) return;
  const Calling calling(*this, "broadcast");
  do_broadcast(values, root);
}

void Communicator::send_receive(const Tensor& sent, int to, Tensor& received, int from) {
  check("send_receive", "sent", sent);
  check("send_receive", "received", received);
  check_rank("send_receive", "to", to);
  check_rank("send_receive", "from", from);
  check_apart("send_receive", sent, received);
  if (sent.device() != received.device()) {
    throw DeviceError(fmt::format("send_receive: 'sent' is {} and 'received' {}, expected one device", describe(sent),
                                  describe(received)));
  }
  if (size_ > 1) {
    const Calling calling(*this, "send_receive");
    do_send_receive(sent, to, received, from);
    return;
  }
  if (sent.bytes() != received.bytes()) {
    throw ShapeError(fmt::format("send_receive: {} is sent to {}", describe(sent), describe(received)));
  }
  received.copy_from(sent.reshape(received.shape()));
}

void Communicator::barrier() {
  if (size_ == 1) return;
  const Calling calling(*this, "barrier");
  do_barrier();
}

// The numbers lie on the stack, where no allocator counts them: what is short of memory must be able to say so.
Communicator::Agreed Communicator::agree(int status, std::string_view message) {
  constexpr int kWorst = 1 << 20;
  constexpr std::size_t kMessage = 2000;
  if (status < 0 || status > kWorst) {
    throw ValueError(fmt::format("agree: a status of {}, expected 0 to {}", status, kWorst));
  }
  // Of equal ones the lowest rank's is the largest.
  std::int64_t worst = status == 0 ? 0 : static_cast<std::int64_t>(status) * size_ + (size_ - 1 - rank_);
  Tensor shared = Tensor::wrap(&worst, {1});
  all_reduce(shared, Reduction::kMax);
  if (worst == 0) return {};
  Agreed agreed{static_cast<int>(worst / size_), size_ - 1 - static_cast<int>(worst % size_), {}};
  std::uint8_t text[kMessage] = {};
  std::memcpy(text, message.data(), std::min(message.size(), kMessage));
  Tensor told = Tensor::wrap(text, {static_cast<std::int64_t>(kMessage)});
  broadcast(told, agreed.rank);
  const auto* const begin = reinterpret_cast<const char*>(text);
  agreed.message.assign(begin, std::find(begin, begin + kMessage, '\0'));
  return agreed;
}

void on_rank_0(Communicator& ranks, const std::function<void()>& work) {
  ranks.barrier();
  std::exception_ptr failed;
  std::string why;
  if (ranks.rank() == 0) {
    try {
      work();
    } catch (...) {
      failed = std::current_exception();
      why = detail::exception_text();
    }
  }
  const Communicator::Agreed agreed = ranks.agree(failed ? 1 : 0, why);
  if (failed) std::rethrow_exception(failed);
  if (agreed.status != 0) throw Error(fmt::format("on_rank_0: {}", agreed.message));
}

}  // namespace tapecache::distributed
