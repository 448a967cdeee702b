#include "checks.h"

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <utility>
#include <vector>

#include "tapecache/core/arena.h"

using namespace tapecache;

namespace {

/// Addresses alone: an arena never touches what it hands out.
std::byte* address(std::uintptr_t at) { return reinterpret_cast<std::byte*>(at); }

std::vector<std::size_t> dropped(Arena& arena) {
  std::vector<std::size_t> sizes;
  arena.drop_free_segments([&](std::byte*, std::size_t size) { sizes.push_back(size); });
  return sizes;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(arena)

BOOST_AUTO_TEST_CASE(an_empty_arena_has_nothing) {
  Arena arena;
  BOOST_CHECK(arena.take(64) == nullptr);
  BOOST_CHECK(dropped(arena).empty());
}

BOOST_AUTO_TEST_CASE(the_smallest_block_that_is_large_enough) {
  Arena arena;
  arena.add_segment(address(4096), 1024);
  std::byte* a = arena.take(256);
  std::byte* b = arena.take(64);
  std::byte* c = arena.take(128);
  BOOST_CHECK(a == address(4096) && b == address(4096 + 256) && c == address(4096 + 320));
  arena.give_back(a);
  BOOST_CHECK(arena.take(512) == address(4096 + 448));
  BOOST_CHECK(arena.take(192) == a);  // 64 of it are left
  BOOST_CHECK(arena.take(128) == nullptr);
  BOOST_CHECK(arena.take(64) == address(4096 + 192));
}

BOOST_AUTO_TEST_CASE(freed_neighbours_are_one_block) {
  Arena arena;
  arena.add_segment(address(4096), 300);
  std::byte* a = arena.take(100);
  std::byte* b = arena.take(100);
  std::byte* c = arena.take(100);
  arena.give_back(a);
  arena.give_back(c);
  BOOST_CHECK(arena.take(200) == nullptr);
  arena.give_back(b);
  BOOST_CHECK(arena.take(300) == a);
}

BOOST_AUTO_TEST_CASE(segments_stay_apart) {
  Arena arena;
  arena.add_segment(address(4096), 128);
  arena.add_segment(address(4096 + 128), 128);  // side by side, and yet two
  BOOST_CHECK_EQUAL(arena.reserved(), 256u);
  BOOST_CHECK(arena.take(256) == nullptr);
  std::byte* a = arena.take(64);
  BOOST_CHECK(dropped(arena) == std::vector<std::size_t>{128});
  BOOST_CHECK_EQUAL(arena.reserved(), 128u);
  arena.give_back(a);
  BOOST_CHECK(dropped(arena) == std::vector<std::size_t>{128});
  BOOST_CHECK_EQUAL(arena.reserved(), 0u);
}

BOOST_AUTO_TEST_CASE(blocks_never_overlap) {
  Arena arena;
  arena.add_segment(address(1 << 20), 1 << 16);
  arena.add_segment(address(1 << 24), 1 << 15);
  std::map<std::byte*, std::size_t> taken;
  std::uint32_t state = 1;
  const auto random = [&](std::uint32_t below) { return ((state = state * 1664525u + 1013904223u) >> 8) % below; };
  std::size_t refused = 0;
  for (int i = 0; i < 20'000; ++i) {
    if (random(2) == 0 && !taken.empty()) {
      const auto at = std::next(taken.begin(), random(static_cast<std::uint32_t>(taken.size())));
      arena.give_back(at->first);
      taken.erase(at);
      continue;
    }
    const std::size_t size = 64 * (1 + random(400));
    std::byte* block = arena.take(size);
    if (!block) {
      ++refused;
      continue;
    }
    const auto next = taken.lower_bound(block);
    BOOST_REQUIRE(next == taken.end() || block + size <= next->first);
    BOOST_REQUIRE(next == taken.begin() || std::prev(next)->first + std::prev(next)->second <= block);
    taken.emplace(block, size);
  }
  BOOST_CHECK_GT(refused, 0u);
  for (const auto& [block, size] : taken) arena.give_back(block);
  BOOST_CHECK(arena.take(1 << 16) == address(1 << 20));
  BOOST_CHECK(arena.take(1 << 15) == address(1 << 24));
}

BOOST_AUTO_TEST_SUITE_END()
