#include "process_group.h"

#include <cstdio>
#include <exception>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "exit_code.h"
#include "tapecache/core/error.h"
#include "tapecache/distributed/launched.h"
#ifdef TAPECACHE_HAS_MPI
#include "tapecache/distributed/mpi.h"
#endif

namespace tapecache::program {

namespace {

using distributed::CommunicationError;
using Reduction = distributed::Communicator::Reduction;

void tell(std::string_view message) { fmt::print(stderr, "tapecache: {}\n", message); }

}  // namespace

int launched_processes() { return distributed::detail::launched().processes; }

ProcessGroup ProcessGroup::launched(std::chrono::seconds limit) {
  const distributed::detail::Launched launched = distributed::detail::launched();
  if (launched.processes == 1) return {};
#ifdef TAPECACHE_HAS_MPI
  ProcessGroup group;
  group.communicator_ = distributed::mpi_world(limit);
  return group;
#else
  (void)limit;
  throw ValueError(
      fmt::format("{} says that {} processes were started together, but this tapecache was built without MPI "
                  "(-Dmpi=enabled), expected one",
                  launched.variable, launched.processes));
#endif
}

void ProcessGroup::together(const std::function<void()>& work) const {
  if (!communicator_) {
    work();
    return;
  }
  int code = kDone;
  std::string why;
  try {
    work();
  } catch (const std::exception& e) {
    code = exit_code(e);
    why = e.what();
  }
  const distributed::Communicator::Agreed agreed = communicator_->agree(code, why);
  if (agreed.status == kDone) return;
  throw FailedTogether(agreed.status, agreed.rank == 0
                                          ? agreed.message
                                          : fmt::format("process {} of {}: {}", agreed.rank, size(), agreed.message));
}

void ProcessGroup::on_first(const std::function<void()>& work) const {
  if (communicator_) communicator_->barrier();
  together([&] {
    if (is_first()) work();
  });
}

Shares ProcessGroup::shares(std::int64_t total) const {
  Shares shares{{}, rank()};
  for (std::int64_t r = 0; r < size(); ++r) shares.counts.push_back(total * (r + 1) / size() - total * r / size());
  return shares;
}

Tensor ProcessGroup::gathered(const Tensor& rows, const Shares& shares) const {
  if (!communicator_) return rows;
  Tensor all = Tensor::empty(rows.shape().with(0, shares.total()), rows.dtype());
  communicator_->all_gather(rows, all, shares.counts);
  return all;
}

void ProcessGroup::take_largest(std::span<std::int64_t> numbers) const {
  if (!communicator_) return;
  Tensor shared = Tensor::wrap(numbers.data(), {static_cast<std::int64_t>(numbers.size())});
  communicator_->all_reduce(shared, Reduction::kMax);
}

void ProcessGroup::take_smallest(std::span<std::int64_t> numbers) const {
  for (std::int64_t& number : numbers) number = -number;
  take_largest(numbers);
  for (std::int64_t& number : numbers) number = -number;
}

int ProcessGroup::run(const std::function<int()>& command) const {
  if (!communicator_) return command();
  try {
    return command();
  } catch (const FailedTogether& e) {
    if (is_first()) tell(e.what());
    return e.code();
  } catch (const CommunicationError& e) {
    tell(e.what());
    return kLost;
  } catch (const std::exception& e) {
    // A step throws on all processes, and they meet here. Where this one failed alone, they do not.
    try {
      const distributed::Communicator::Agreed agreed = communicator_->agree(exit_code(e), e.what());
      if (is_first()) tell(agreed.message);
      return agreed.status;
    } catch (const CommunicationError&) {
      tell(fmt::format("process {} of {}: {}", rank(), size(), e.what()));
      return exit_code(e);
    }
  }
}

}  // namespace tapecache::program
