#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "require.h"
#include "tapecache/core/tensor.h"
#include "tapecache/distributed/communicator.h"

/// Every call of a communicator, of any backend and with tensors on any device that it takes; every rank of a group
/// makes the same ones.
namespace tapecache::test {

using distributed::Communicator;
using Reduction = distributed::Communicator::Reduction;

using Counts = std::vector<std::int64_t>;

inline std::int64_t before(const Counts& counts, int rank) {
  return std::accumulate(counts.begin(), counts.begin() + rank, std::int64_t{0});
}

inline std::int64_t own(const Counts& counts, const Communicator& ranks) {
  return counts[static_cast<std::size_t>(ranks.rank())];
}

/// Bytes that depend on where they are alone: of any type, not all of them numbers.
inline Tensor pattern(std::int64_t first_row, std::int64_t rows, std::int64_t width, DType dtype) {
  Tensor tensor = Tensor::empty({rows, width}, dtype);
  std::byte* const bytes = tensor.mutable_raw();
  const std::size_t begin = static_cast<std::size_t>(first_row * width) * size_of(dtype);
  for (std::size_t i = 0; i < tensor.bytes(); ++i) {
    const std::size_t value = (begin + i) * 2654435761u >> 7;
    bytes[i] = static_cast<std::byte>(dtype == DType::kBool ? value & 1 : value);
  }
  return tensor;
}

inline bool same_bytes(const Tensor& found, const Tensor& expected) {
  const Tensor a = found.to(Device::cpu()), b = expected.to(Device::cpu());
  return a.shape() == b.shape() && a.dtype() == b.dtype() &&
         (a.numel() == 0 || std::memcmp(a.raw(), b.raw(), a.bytes()) == 0);
}

/// The values of a rank, which any rank can work out.
inline Tensor drawn(unsigned seed, const Shape& shape, DType dtype, int rank) {
  std::mt19937 engine(seed * 131 + static_cast<unsigned>(rank));
  if (dtype == DType::kInt64) {
    std::vector<std::int64_t> values(static_cast<std::size_t>(shape.numel()));
    for (auto& value : values) value = static_cast<std::int64_t>(engine()) << 20;
    return Tensor::from(values, shape);
  }
  std::vector<double> values(static_cast<std::size_t>(shape.numel()));
  std::uniform_real_distribution<double> draw(-1, 1);
  for (double& value : values) value = draw(engine);
  return Tensor::from(values, shape).to(dtype);
}

/// `found` joins the drawn values of all ranks, from `first` on.
inline void require_joined(const Tensor& found, unsigned seed, const Shape& shape, std::int64_t first,
                           Reduction reduction, int size) {
  Tensor expected = drawn(seed, shape, found.dtype(), 0).to(DType::kFloat64);
  double* const values = expected.mutable_data<double>();
  for (int rank = 1; rank < size; ++rank) {
    const Tensor more = drawn(seed, shape, found.dtype(), rank).to(DType::kFloat64);
    for (std::int64_t i = 0; i < shape.numel(); ++i) {
      const double other = more.data<double>()[i];
      values[i] = reduction == Reduction::kSum ? values[i] + other : std::max(values[i], other);
    }
  }
  const Tensor wide = found.to(Device::cpu()).to(DType::kFloat64);
  const double tolerance = found.dtype() == DType::kFloat32 && reduction == Reduction::kSum ? 1e-6 * size : 0;
  const double rounding = found.dtype() == DType::kFloat64 ? 1e-15 * size : tolerance;
  for (std::int64_t i = 0; i < found.numel(); ++i) {
    require(std::abs(wide.data<double>()[i] - values[first + i]) <= rounding, "joined values");
  }
}

/// Every rank has the same bits.
inline void require_alike(Communicator& ranks, const Tensor& values) {
  const Counts counts(static_cast<std::size_t>(ranks.size()), 1);
  Tensor all = Tensor::empty({ranks.size(), values.numel()}, values.dtype(), values.device());
  const Tensor flat = values.reshape({1, values.numel()});
  ranks.all_gather(flat, all, counts);
  for (int rank = 0; rank < ranks.size(); ++rank) require(same_bytes(all.slice(rank, rank + 1), flat), "same bits");
}

inline void check_gather(Communicator& ranks, Device device, const Counts& counts, std::int64_t width, DType dtype) {
  const std::int64_t total = before(counts, ranks.size());
  Tensor all = Tensor::zeros({total, width}, dtype, device);
  ranks.all_gather(pattern(before(counts, ranks.rank()), own(counts, ranks), width, dtype).to(device), all, counts);
  require(same_bytes(all, pattern(0, total, width, dtype)), "gathered");
}

inline void check_reduce_scatter(Communicator& ranks, Device device, const Counts& counts, std::int64_t width,
                                 DType dtype, unsigned seed) {
  const Shape shape{before(counts, ranks.size()), width};
  Tensor rows = Tensor::zeros({own(counts, ranks), width}, dtype, device);
  ranks.reduce_scatter(drawn(seed, shape, dtype, ranks.rank()).to(device), rows, counts);
  require_joined(rows, seed, shape, before(counts, ranks.rank()) * width, Reduction::kSum, ranks.size());
}

inline void check_all_reduce(Communicator& ranks, Device device, std::int64_t elements, DType dtype,
                             Reduction reduction, unsigned seed) {
  const Tensor given = drawn(seed, {elements}, dtype, ranks.rank()).to(device);
  Tensor joined = given.clone(), again = given.clone();
  ranks.all_reduce(joined, reduction);
  ranks.all_reduce(again, reduction);
  require(same_bytes(joined, again), "the same each time");
  require_joined(joined, seed, {elements}, 0, reduction, ranks.size());
  require_alike(ranks, joined);
}

inline void check_broadcast(Communicator& ranks, Device device, std::int64_t elements, DType dtype, int root) {
  Tensor values =
      (ranks.rank() == root ? pattern(0, 1, elements, dtype) : Tensor::zeros({1, elements}, dtype)).to(device);
  ranks.broadcast(values, root);
  require(same_bytes(values, pattern(0, 1, elements, dtype)), "broadcast");
}

/// Blocks of another size each go round until each is at home again; one is empty.
inline void check_ring(Communicator& ranks, Device device, std::int64_t width, int step) {
  const int size = ranks.size();
  const auto block_of = [&](int rank) { return pattern(rank, rank % 3, width, DType::kBFloat16).to(device); };
  Tensor block = block_of(ranks.rank());
  for (int turn = 1; turn <= size; ++turn) {
    const int home = ((ranks.rank() - turn * step) % size + size) % size;
    Tensor next = Tensor::zeros({home % 3, width}, DType::kBFloat16, device);
    ranks.send_receive(block, (ranks.rank() + step) % size, next, ((ranks.rank() - step) % size + size) % size);
    require(same_bytes(next, block_of(home)), "ring");
    block = next;
  }
}

inline constexpr DType kAllTypes[] = {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16,
                                      DType::kInt32,   DType::kInt64,   DType::kUInt8,   DType::kBool};
inline constexpr DType kAddable[] = {DType::kFloat32, DType::kFloat64, DType::kInt64};

inline void check_every_call(Communicator& ranks, Device device = Device::cpu()) {
  const int size = ranks.size();
  Counts uneven, first_alone(static_cast<std::size_t>(size), 0), none = first_alone;
  for (int r = 0; r < size; ++r) uneven.push_back((r * 3 + size + 1) % 5);
  first_alone[0] = 4;
  for (const Counts& counts : {uneven, first_alone, none, Counts(static_cast<std::size_t>(size), 2)}) {
    for (const DType dtype : kAllTypes) check_gather(ranks, device, counts, 7, dtype);
    for (const DType dtype : kAddable) check_reduce_scatter(ranks, device, counts, 5, dtype, 1);
    // Several pieces, the last one cut short.
    check_gather(ranks, device, counts, 400'003, DType::kBFloat16);
    check_reduce_scatter(ranks, device, counts, 200'003, DType::kFloat32, 2);
  }
  for (const std::int64_t elements : {0, 1, 3, 511, 512, 513, 1025, 4099, 50'003}) {
    for (const DType dtype : kAddable) {
      for (const Reduction reduction : {Reduction::kSum, Reduction::kMax}) {
        check_all_reduce(ranks, device, elements, dtype, reduction, 3);
      }
    }
    for (const DType dtype : kAllTypes) check_broadcast(ranks, device, elements, dtype, size - 1);
    for (int root = 0; root < size; ++root) check_broadcast(ranks, device, elements, DType::kFloat16, root);
  }
  check_all_reduce(ranks, device, 1'000'003, DType::kFloat32, Reduction::kSum, 4);
  check_broadcast(ranks, device, 3'000'001, DType::kUInt8, size / 2);
  for (int step = 0; step <= size; ++step) check_ring(ranks, device, 11, step);
  check_ring(ranks, device, 700'001, 1);
  const std::int64_t large = std::int64_t{1} << 62;
  Tensor sum = Tensor::from({large + ranks.rank()}, {1}).to(device);
  ranks.all_reduce(sum);
  sum = sum.to(Device::cpu());
  const auto wrapped = static_cast<std::uint64_t>(large) * static_cast<std::uint64_t>(size);
  require(sum.data<std::int64_t>()[0] == static_cast<std::int64_t>(wrapped) + size * (size - 1) / 2, "integers");
  ranks.barrier();
}

inline void check_agree(Communicator& ranks) {
  require(ranks.agree(0, "unheard").status == 0, "all well");
  const distributed::Communicator::Agreed agreed =
      ranks.agree(ranks.rank() == 0 ? 0 : 2, std::string(3000, static_cast<char>('a' + ranks.rank())));
  if (ranks.size() == 1) require(agreed.status == 0, "alone");
  else require(agreed.status == 2 && agreed.rank == 1 && agreed.message == std::string(2000, 'b'), "worst");
  require(ranks.agree(0).message.empty(), "well again");
}

/// The same calls on every rank, drawn from one seed; each rank idles as long as it likes.
inline void check_random_calls(Communicator& ranks, Device device = Device::cpu()) {
  std::mt19937 calls(7), pauses(static_cast<unsigned>(ranks.rank()) + 1);
  const auto below = [&](int n) { return static_cast<int>(calls() % static_cast<unsigned>(n)); };
  for (unsigned seed = 0; seed < 200; ++seed) {
    if (pauses() % 16 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(pauses() % 8));
    Counts counts;
    for (int r = 0; r < ranks.size(); ++r) counts.push_back(below(3) == 0 ? 0 : below(40));
    const std::int64_t width = below(4) == 0 ? below(20'000) : below(40);
    const DType addable = kAddable[below(3)];
    switch (below(6)) {
      case 0:
        check_gather(ranks, device, counts, width, kAllTypes[below(8)]);
        break;
      case 1:
        check_reduce_scatter(ranks, device, counts, width, addable, seed);
        break;
      case 2:
        check_all_reduce(ranks, device, width, addable, below(2) == 0 ? Reduction::kSum : Reduction::kMax, seed);
        break;
      case 3:
        check_broadcast(ranks, device, width, kAllTypes[below(8)], below(ranks.size()));
        break;
      case 4:
        check_ring(ranks, device, width, below(ranks.size()));
        break;
      default:
        ranks.barrier();
        break;
    }
  }
}

}  // namespace tapecache::test
