#include "tapecache/losses/shared_pairs.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>
#include <map>
#include <vector>

namespace tapecache::losses::detail {

using distributed::Communicator;

namespace {

/// A number's bits mixed: the finaliser of MurmurHash3.
std::uint64_t mixed(std::uint64_t x) {
  x = (x ^ (x >> 33)) * 0xff51afd7ed558ccdull;
  x = (x ^ (x >> 33)) * 0xc4ceb9fe1a85ec53ull;
  return x ^ (x >> 33);
}

/// i64 [rows, 2] on the host.
Tensor digests(const Tensor& rows) {
  const Tensor host = rows.to(Device::cpu());
  const std::int64_t count = host.size(0);
  Tensor digests = Tensor::empty({count, 2}, DType::kInt64);
  if (count == 0) return digests;
  const std::size_t bytes = host.bytes() / static_cast<std::size_t>(count);
  const std::byte* row = host.raw();
  auto* to = digests.mutable_data<std::int64_t>();
  for (std::int64_t i = 0; i < count; ++i, row += bytes, to += 2) {
    std::uint64_t a = 0x9e3779b97f4a7c15ull, b = 0xc2b2ae3d27d4eb4full;
    for (std::size_t at = 0; at < bytes; at += sizeof(std::uint64_t)) {
      std::uint64_t word = 0;
      std::memcpy(&word, row + at, std::min(sizeof word, bytes - at));
      a = mixed(a ^ word);
      b = mixed(b * 31 + word);
    }
    to[0] = static_cast<std::int64_t>(a);
    to[1] = static_cast<std::int64_t>(b);
  }
  return digests;
}

/// Numbers from 0, the same for rows of all ranks whose keys are, [rows, n] on the host.
std::vector<std::int64_t> numbered(const Tensor& keys) {
  const std::int64_t rows = keys.size(0), width = keys.size(1);
  const auto* const key = keys.data<std::int64_t>();
  std::map<std::array<std::int64_t, 2>, std::int64_t> numbers;
  std::vector<std::int64_t> of_rows;
  for (std::int64_t i = 0; i < rows; ++i) {
    const std::int64_t* const own = key + i * width;
    of_rows.push_back(numbers.try_emplace({own[0], own[width - 1]}, std::ssize(numbers)).first->second);
  }
  return of_rows;
}

std::vector<std::int64_t> numbered_ids(Communicator& ranks, const Tensor& ids, const Shares& shares) {
  if (!ids.defined()) return {};
  const Tensor own = ids.to(Device::cpu()).to(DType::kInt64).reshape({shares.own, 1});
  return numbered(gather_rows(ranks, own, shares));
}

std::vector<std::int64_t> numbered_rows(Communicator& ranks, const Tensor& rows, const Shares& shares) {
  return numbered(gather_rows(ranks, digests(rows), shares));
}

}  // namespace

ops::PairKeys shared_pairs(Communicator& ranks, const ops::EqualTargets& equal, const Tensor& queries,
                           const Tensor& targets, const Shares& of_queries, const Shares& of_targets, std::int64_t step,
                           ops::RowsOf rows) {
  std::vector<std::int64_t> of_query, of_target;
  if (!equal.equal_rows) {
    of_query = numbered_ids(ranks, equal.query_ids, of_queries);
    of_target = numbered_ids(ranks, equal.target_ids, of_targets);
  } else {
    if (rows == ops::RowsOf::kBoth) of_query = numbered_rows(ranks, queries, of_queries);
    of_target = numbered_rows(ranks, targets, of_targets);
  }
  const auto tensor = [&](const std::vector<std::int64_t>& numbers) {
    return Tensor::from(numbers, {std::ssize(numbers)}).to(queries.device());
  };
  ops::PairKeys keys;
  if (!of_target.empty()) {
    std::vector<std::int64_t> of_positive;
    for (std::int64_t i = 0; i < of_queries.total; ++i) {
      of_positive.push_back(of_target[static_cast<std::size_t>(i * step)]);
    }
    keys.positives = tensor(of_positive);
    keys.targets = tensor(of_target);
  }
  if (!of_query.empty()) {
    std::vector<std::int64_t> of_targets_query(static_cast<std::size_t>(of_targets.total), -1);
    for (std::int64_t i = 0; i < of_queries.total; ++i) {
      of_targets_query[static_cast<std::size_t>(i * step)] = of_query[static_cast<std::size_t>(i)];
    }
    keys.queries = tensor(of_query);
    keys.target_queries = tensor(of_targets_query);
  }
  return keys;
}

ops::PairKeys among_positives(const ops::PairKeys& keys) {
  return {keys.positives, keys.positives, keys.queries, keys.queries};
}

}  // namespace tapecache::losses::detail
