#include "tapecache/losses/shared.h"

#include <algorithm>
#include <array>
#include <bit>
#include <numeric>
#include <utility>

#include <fmt/format.h>

#include "tapecache/core/device.h"

namespace tapecache::losses::detail {

using distributed::Communicator;

namespace {

/// As many numbers as any loss has, so that ranks that take different losses meet in the first call.
constexpr std::size_t kInCommon = 16;
constexpr std::size_t kOfEach = 4;  // queries, targets, whether gradients are wanted, limit

Tensor for_ranks(const Communicator& ranks, const Tensor& tensor) {
  return ranks.takes(tensor.device()) ? tensor : tensor.to(Device::cpu());
}

/// Has `call` write to a tensor that the communicator takes.
template <class Call>
void write_for_ranks(const Communicator& ranks, Tensor& tensor, Call call) {
  if (ranks.takes(tensor.device())) return call(tensor);
  Tensor host = tensor.to(Device::cpu());
  call(host);
  tensor.copy_from_async(host);
}

}  // namespace

Variable take_shared(Communicator& ranks, const std::function<Variable()>& loss) {
  Variable value;
  distributed::detail::or_give_up(ranks, [&] { value = loss(); });
  return value;
}

Shares::Shares(const Communicator& ranks, std::vector<std::int64_t> of_ranks) : counts(std::move(of_ranks)) {
  total = std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
  first = std::accumulate(counts.begin(), counts.begin() + ranks.rank(), std::int64_t{0});
  own = counts[static_cast<std::size_t>(ranks.rank())];
}

InCommon whole(const char* what, std::int64_t number) {
  return {what, number, [](std::int64_t n) { return fmt::to_string(n); }};
}

InCommon real(const char* what, double number) {
  return {what, std::bit_cast<std::int64_t>(number),
          [](std::int64_t bits) { return fmt::to_string(std::bit_cast<double>(bits)); }};
}

InCommon named(const char* what, std::int64_t number, std::vector<std::string> names) {
  return {what, number, [names = std::move(names)](std::int64_t n) {
            return n >= 0 && n < std::ssize(names) ? names[static_cast<std::size_t>(n)] : fmt::to_string(n);
          }};
}

Brought bring(const char* loss, Communicator& ranks, std::span<const InCommon> alike, std::int64_t queries,
              std::int64_t targets, bool gradient, Device device) {
  constexpr std::size_t kNumbers = kOfEach + kInCommon;
  if (alike.size() > kInCommon) throw ValueError(fmt::format("{}: {} numbers in common", loss, alike.size()));
  std::array<std::int64_t, kNumbers> own{queries, targets, gradient,
                                         static_cast<std::int64_t>(device.memory_stats().limit)};
  for (std::size_t i = 0; i < alike.size(); ++i) own[kOfEach + i] = alike[i].number;
  const auto size = static_cast<std::size_t>(ranks.size());
  std::vector<std::int64_t> numbers(size * kNumbers);
  Tensor all = Tensor::wrap(numbers.data(), {ranks.size(), static_cast<std::int64_t>(kNumbers)});
  ranks.all_gather(Tensor::wrap(own.data(), {1, static_cast<std::int64_t>(kNumbers)}), all,
                   std::vector<std::int64_t>(size, 1));
  const auto number = [&](std::size_t rank, std::size_t i) { return numbers[rank * kNumbers + i]; };
  Brought brought;
  for (std::size_t r = 0; r < size; ++r) {
    for (std::size_t i = 0; i < alike.size(); ++i) {
      const std::int64_t first = number(0, kOfEach + i), other = number(r, kOfEach + i);
      if (first == other) continue;
      throw ValueError(fmt::format("{}: rank {} has another {} than rank 0: {} in the place of {}", loss, r,
                                   alike[i].what, alike[i].text(other), alike[i].text(first)));
    }
    brought.queries.push_back(number(r, 0));
    brought.targets.push_back(number(r, 1));
    brought.gradient = brought.gradient || number(r, 2) != 0;
    const auto limit = static_cast<std::size_t>(number(r, 3));
    if (limit > 0) brought.limit = brought.limit == 0 ? limit : std::min(brought.limit, limit);
  }
  return brought;
}

Tensor gather_rows(Communicator& ranks, const Tensor& rows, const Shares& shares) {
  const Tensor here = for_ranks(ranks, rows);
  Tensor all = Tensor::empty(rows.shape().with(0, shares.total), rows.dtype(), here.device());
  ranks.all_gather(here, all, shares.counts);
  return all.to(rows.device());
}

Tensor scatter_sum(Communicator& ranks, const Tensor& all, const Shares& shares) {
  const Tensor here = for_ranks(ranks, all);
  Tensor own = Tensor::empty(all.shape().with(0, shares.own), all.dtype(), here.device());
  ranks.reduce_scatter(here, own, shares.counts);
  return own.to(all.device());
}

void all_reduce(Communicator& ranks, Tensor& values, distributed::Communicator::Reduction reduction) {
  write_for_ranks(ranks, values, [&](Tensor& here) { ranks.all_reduce(here, reduction); });
}

void pass_on(Communicator& ranks, const Tensor& sent, Tensor& received) {
  const int size = ranks.size(), rank = ranks.rank();
  write_for_ranks(ranks, received, [&](Tensor& here) {
    ranks.send_receive(for_ranks(ranks, sent), (rank + 1) % size, here, (rank + size - 1) % size);
  });
}

}  // namespace tapecache::losses::detail
