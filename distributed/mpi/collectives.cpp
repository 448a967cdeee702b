#include "tapecache/distributed/mpi/collectives.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace tapecache::distributed::detail {

namespace {

/// Up to here a call is done along a tree, in a few times log2(ranks) messages after each other.
constexpr std::size_t kSmall = 4096;
constexpr std::size_t kLink = std::size_t{1} << 20;

template <class T>
void join(std::byte* into, const std::byte* more, std::size_t bytes, Communicator::Reduction reduction) {
  T* const a = reinterpret_cast<T*>(into);
  const T* const b = reinterpret_cast<const T*>(more);
  const std::size_t count = bytes / sizeof(T);
  if (reduction == Communicator::Reduction::kSum) {
    for (std::size_t i = 0; i < count; ++i) a[i] += b[i];
  } else {
    for (std::size_t i = 0; i < count; ++i) a[i] = b[i] > a[i] ? b[i] : a[i];
  }
}

void join(std::byte* into, const std::byte* more, std::size_t bytes, DType dtype, Communicator::Reduction reduction) {
  if (dtype == DType::kFloat32) join<float>(into, more, bytes, reduction);
  else if (dtype == DType::kFloat64) join<double>(into, more, bytes, reduction);
  // A sum that is too large wraps.
  else if (reduction == Communicator::Reduction::kSum) join<std::uint64_t>(into, more, bytes, reduction);
  else join<std::int64_t>(into, more, bytes, reduction);
}

Received copied(std::byte* to, std::size_t bytes, int from) {
  return {bytes, from,
          [to](std::size_t begin, const std::byte* piece, std::size_t size) { std::memcpy(to + begin, piece, size); }};
}

Received joined(std::byte* to, std::size_t bytes, int from, DType dtype, Communicator::Reduction reduction) {
  return {bytes, from, [=](std::size_t begin, const std::byte* piece, std::size_t size) {
            join(to + begin, piece, size, dtype, reduction);
          }};
}

struct Share {
  std::size_t begin, bytes;
};

Share share(const Bounds& bounds, int rank) {
  const auto r = static_cast<std::size_t>(rank);
  return {bounds[r], bounds[r + 1] - bounds[r]};
}

/// In rounds each rank sends to the one that is so many further and receives from the one that is so many before, so
/// that no rank is sent to by two at once.
template <class Round>
void in_rounds(const Messenger& messenger, Round round) {
  const int size = messenger.size(), rank = messenger.rank();
  for (int apart = 1; apart < size; ++apart) round((rank + apart) % size, (rank + size - apart) % size);
}

/// Ranks counted from the root form a binomial tree: the parent of one lacks its lowest bit.
void reduce_to_first(Messenger& messenger, std::byte* values, std::size_t bytes, DType dtype,
                     Communicator::Reduction reduction) {
  const int rank = messenger.rank();
  for (int bit = 1; bit < messenger.size(); bit *= 2) {
    if ((rank & bit) != 0) {
      messenger.transfer({values, bytes, rank - bit}, {});
      return;
    }
    if (rank + bit < messenger.size()) {
      messenger.transfer({}, joined(values, bytes, rank + bit, dtype, reduction));
    }
  }
}

void hand_out_by_tree(Messenger& messenger, std::byte* values, std::size_t bytes, int root) {
  const int size = messenger.size();
  const int place = (messenger.rank() - root + size) % size;
  const auto rank_at = [&](int p) { return (p + root) % size; };
  int bit = 1;
  for (; bit < size; bit *= 2) {
    if ((place & bit) == 0) continue;
    messenger.transfer({}, copied(values, bytes, rank_at(place - bit)));
    break;
  }
  for (bit /= 2; bit > 0; bit /= 2) {
    if (place + bit < size) messenger.transfer({values, bytes, rank_at(place + bit)}, {});
  }
}

/// From rank to rank; each passes on a piece while the next comes in.
void hand_out_by_chain(Messenger& messenger, std::byte* values, std::size_t bytes, int root) {
  const int size = messenger.size();
  const int place = (messenger.rank() - root + size) % size;
  const int before = place == 0 ? -1 : (messenger.rank() + size - 1) % size;
  const int next = place == size - 1 ? -1 : (messenger.rank() + 1) % size;
  const auto piece = [&](std::size_t begin) { return begin < bytes ? std::min(kLink, bytes - begin) : 0; };
  for (std::size_t begin = 0; begin < bytes + kLink; begin += kLink) {
    // The piece that came in last goes on.
    const std::size_t passed = place == 0 ? begin : begin - kLink;
    const bool passes = next >= 0 && (place == 0 || begin > 0) && piece(passed) > 0;
    const bool receives = before >= 0 && piece(begin) > 0;
    messenger.transfer(passes ? Sent{values + passed, piece(passed), next} : Sent{},
                       receives ? copied(values + begin, piece(begin), before) : Received{});
  }
}

}  // namespace

void gather(Messenger& messenger, std::byte* all, const Bounds& bounds) {
  const Share own = share(bounds, messenger.rank());
  in_rounds(messenger, [&](int to, int from) {
    const Share other = share(bounds, from);
    messenger.transfer({all + own.begin, own.bytes, to}, copied(all + other.begin, other.bytes, from));
  });
}

void reduce_shares(Messenger& messenger, const std::byte* all, const Bounds& bounds, std::byte* own, DType dtype,
                   Communicator::Reduction reduction) {
  const Share mine = share(bounds, messenger.rank());
  if (own != all + mine.begin && mine.bytes > 0) std::memcpy(own, all + mine.begin, mine.bytes);
  in_rounds(messenger, [&](int to, int from) {
    const Share other = share(bounds, to);
    messenger.transfer({all + other.begin, other.bytes, to}, joined(own, mine.bytes, from, dtype, reduction));
  });
}

void reduce_all(Messenger& messenger, std::byte* values, std::size_t bytes, DType dtype,
                Communicator::Reduction reduction) {
  if (bytes <= kSmall) {
    reduce_to_first(messenger, values, bytes, dtype, reduction);
    hand_out_by_tree(messenger, values, bytes, 0);
    return;
  }
  const std::size_t elements = bytes / size_of(dtype), size = static_cast<std::size_t>(messenger.size());
  Bounds bounds(size + 1);
  for (std::size_t r = 0; r <= size; ++r) {
    bounds[r] = (elements / size * r + std::min(elements % size, r)) * size_of(dtype);
  }
  reduce_shares(messenger, values, bounds, values + share(bounds, messenger.rank()).begin, dtype, reduction);
  gather(messenger, values, bounds);
}

void hand_out(Messenger& messenger, std::byte* values, std::size_t bytes, int root) {
  if (bytes <= kSmall || messenger.size() == 2) hand_out_by_tree(messenger, values, bytes, root);
  else hand_out_by_chain(messenger, values, bytes, root);
}

void meet(Messenger& messenger) {
  const int size = messenger.size(), rank = messenger.rank();
  for (int apart = 1; apart < size; apart *= 2) {
    const auto nothing = [](std::size_t, const std::byte*, std::size_t) {};
    messenger.transfer({nullptr, 0, (rank + apart) % size}, {0, (rank + size - apart) % size, nothing}, true);
  }
}

}  // namespace tapecache::distributed::detail
