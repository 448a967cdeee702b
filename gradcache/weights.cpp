#include "tapecache/gradcache/weights.h"

#include <array>
#include <bit>
#include <cstring>
#include <vector>

#include "tapecache/core/parallel_for.h"
#include "tapecache/gradcache/digest.h"

namespace tapecache::gradcache::detail {

namespace {

constexpr std::size_t kWord = sizeof(std::uint64_t), kLanes = 4;

std::uint64_t mixed(std::uint64_t state, std::uint64_t word) {
  return std::rotl(state ^ word, 29) * 0x9E3779B97F4A7C15u;
}

/// Of four words at a time, which do not wait for one another.
std::uint64_t digest_of_bytes(const std::byte* bytes, std::size_t count) {
  std::array<std::uint64_t, kLanes> lanes{1, 2, 3, 4};
  std::size_t at = 0;
  for (; at + kLanes * kWord <= count; at += kLanes * kWord) {
    std::array<std::uint64_t, kLanes> words;
    std::memcpy(words.data(), bytes + at, sizeof words);
    for (std::size_t i = 0; i < kLanes; ++i) lanes[i] = mixed(lanes[i], words[i]);
  }
  for (; at < count; at += kWord) {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes + at, std::min(kWord, count - at));
    lanes[0] = mixed(lanes[0], word);
  }
  std::uint64_t all = count;
  for (const std::uint64_t lane : lanes) all = mixed(all, lane);
  return all;
}

}  // namespace

std::int64_t digest_of_bits(const Tensor& values) {
  constexpr std::int64_t kBlock = std::int64_t{1} << 18;
  const Tensor host = values.to(Device::cpu());
  const std::byte* const bytes = host.raw();
  const auto count = static_cast<std::int64_t>(host.bytes());
  std::vector<std::uint64_t> of_blocks(static_cast<std::size_t>((count + kBlock - 1) / kBlock));
  parallel_for(count, kBlock, [&](std::int64_t begin, std::int64_t end) {
    of_blocks[static_cast<std::size_t>(begin / kBlock)] =
        digest_of_bytes(bytes + begin, static_cast<std::size_t>(end - begin));
  });
  return std::bit_cast<std::int64_t>(
      digest_of_bytes(reinterpret_cast<const std::byte*>(of_blocks.data()), of_blocks.size() * kWord));
}

std::int64_t ComparedWeights::changes(std::span<const Parameter> parameters) const {
  Digest digest;
  for (const Parameter& p : parameters) {
    const auto known = versions_.find(p.value().weak_storage());
    if (known == versions_.end()) return kNew;
    digest.add(static_cast<std::int64_t>(p.value().version() - known->second));
  }
  return digest.value();
}

void ComparedWeights::note(std::span<const Parameter> parameters) {
  std::erase_if(versions_, [](const auto& entry) { return entry.first.expired(); });
  for (const Parameter& p : parameters) versions_[p.value().weak_storage()] = p.value().version();
}

}  // namespace tapecache::gradcache::detail
