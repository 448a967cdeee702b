#include "tapecache/losses/shared_pairs.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>
#include <map>
#include <span>
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

/// 128 bits made of all that is added.
class Digest {
 public:
  void add(std::uint64_t word) {
    a_ = mixed(a_ ^ word);
    b_ = mixed(b_ * 31 + word);
  }
  void add(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      std::uint64_t word = 0;
      const std::size_t count = std::min(sizeof word, bytes.size());
      std::memcpy(&word, bytes.data(), count);
      add(word);
      bytes = bytes.subspan(count);
    }
  }
  std::array<std::int64_t, 2> bits() const { return {static_cast<std::int64_t>(a_), static_cast<std::int64_t>(b_)}; }

 private:
  std::uint64_t a_ = 0x9e3779b97f4a7c15ull, b_ = 0xc2b2ae3d27d4eb4full;
};

/// i64 [rows, 2] on the host, of rows [rows, …] and, where there is one, the mask [rows, tokens] of their tokens.
Tensor digests(const Tensor& rows, const Tensor& mask) {
  const Tensor host = rows.to(Device::cpu()), marks = mask.defined() ? mask.to(Device::cpu()) : Tensor();
  const std::int64_t count = host.size(0), tokens = mask.defined() ? host.size(1) : 1;
  Tensor digests = Tensor::empty({count, 2}, DType::kInt64);
  if (count == 0) return digests;
  const std::size_t token_bytes = host.bytes() / static_cast<std::size_t>(count * tokens);
  std::span<const std::byte> left(host.raw(), host.bytes());
  for (std::int64_t i = 0; i < count; ++i) {
    Digest digest;
    for (std::int64_t t = 0; t < tokens; ++t) {
      const bool valid = !mask.defined() || marks.data<bool>()[i * tokens + t];
      if (mask.defined()) digest.add(valid);
      if (valid) digest.add(left.first(token_bytes));
      left = left.subspan(token_bytes);
    }
    std::ranges::copy(digest.bits(), digests.mutable_data<std::int64_t>() + 2 * i);
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

std::vector<std::int64_t> numbered_rows(Communicator& ranks, const Tensor& rows, const Tensor& mask,
                                        const Shares& shares) {
  return numbered(gather_rows(ranks, digests(rows, mask), shares));
}

}  // namespace

ops::PairKeys shared_pairs(Communicator& ranks, const ops::EqualTargets& equal, const Tensor& queries,
                           const Tensor& targets, const Shares& of_queries, const Shares& of_targets, std::int64_t step,
                           ops::RowsOf rows, const Tensor& target_mask) {
  std::vector<std::int64_t> of_query, of_target;
  if (!equal.equal_rows) {
    of_query = numbered_ids(ranks, equal.query_ids, of_queries);
    of_target = numbered_ids(ranks, equal.target_ids, of_targets);
  } else {
    if (rows == ops::RowsOf::kBoth) of_query = numbered_rows(ranks, queries, {}, of_queries);
    of_target = numbered_rows(ranks, targets, target_mask, of_targets);
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
