#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "tapecache/autograd/tape.h"
#include "tapecache/distributed/communicator.h"
#include "tapecache/distributed/exception_text.h"

#pragma GCC visibility push(hidden)

/// What losses that ranks take together ask of the other ranks. Private to losses.
namespace tapecache::losses::detail {

/// A loss that calls other ranks. Who cannot take it tells them.
Variable take_shared(distributed::Communicator& ranks, const std::function<Variable()>& loss);

/// The value of a loss, recorded where one of its inputs wants a gradient: `work->backward` gives them, and may call
/// other ranks.
template <class Work>
Variable recorded(const char* loss, distributed::Communicator& ranks, Tensor value, const std::vector<Variable>& inputs,
                  std::shared_ptr<Work> work) {
  Variable result(std::move(value));
  if (!tapecache::detail::will_record(inputs)) return result;
  std::vector<Tensor> saved;
  for (const Variable& input : inputs) saved.push_back(input.value());
  Work* const of_tape = work.get();
  const auto derivative = [of_tape, group = &ranks](Backward& context) {
    distributed::detail::or_give_up(*group, [&] { of_tape->backward(context); });
  };
  Tape::append(loss, std::span(&result, 1), inputs, saved, tapecache::detail::derivative_of(derivative),
               std::move(work));
  return result;
}

/// Rows that ranks have between them, in the order of ranks.
struct Shares {
  std::vector<std::int64_t> counts;  // of each rank
  std::int64_t total = 0;
  std::int64_t first = 0, own = 0;  // of this rank

  Shares() = default;
  Shares(const distributed::Communicator& ranks, std::vector<std::int64_t> counts);
};

/// What every rank must be told alike, and how it reads in a message.
struct InCommon {
  std::string what;
  std::int64_t number = 0;
  std::function<std::string(std::int64_t)> text;  // of a number
};
InCommon whole(const char* what, std::int64_t number);
InCommon real(const char* what, double number);
InCommon named(const char* what, std::int64_t number, std::vector<std::string> names);

/// What every rank brings, of which each makes the same of all.
struct Brought {
  std::vector<std::int64_t> queries, targets;  // of each rank
  bool gradient = false;                       // whether a rank wants one for its targets
  std::size_t limit = 0;                       // least number of bytes that a rank may use; 0: none is set
};

/// One all_gather. Throws ValueError on every rank, naming the rank and what differs.
Brought bring(const char* loss, distributed::Communicator& ranks, std::span<const InCommon> alike, std::int64_t queries,
              std::int64_t targets, bool gradient, Device device);

// The communicator's calls, by way of the host where it does not take the tensors' device.
Tensor gather_rows(distributed::Communicator& ranks, const Tensor& rows, const Shares& shares);
/// The sum over ranks of their `all`, of which this rank's rows are returned.
Tensor scatter_sum(distributed::Communicator& ranks, const Tensor& all, const Shares& shares);
void all_reduce(distributed::Communicator& ranks, Tensor& values, distributed::Communicator::Reduction reduction);
/// Sends to the next rank and receives from the one before.
void pass_on(distributed::Communicator& ranks, const Tensor& sent, Tensor& received);

}  // namespace tapecache::losses::detail

#pragma GCC visibility pop
