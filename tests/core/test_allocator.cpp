#include "checks.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "tapecache/core/allocator.h"
#include "tapecache/core/device.h"
#include "tapecache/core/error.h"
#include "tapecache/core/memory_pool.h"
#include "tapecache/core/op_scope.h"
#include "tapecache/core/tensor.h"

using namespace tapecache;
using namespace tapecache::testing;

BOOST_AUTO_TEST_SUITE(allocators)

BOOST_AUTO_TEST_CASE(block_sizes) {
  BOOST_CHECK_EQUAL(Allocator::block_size(0), 64u);
  BOOST_CHECK_EQUAL(Allocator::block_size(1), 64u);
  BOOST_CHECK_EQUAL(Allocator::block_size(64), 64u);
  BOOST_CHECK_EQUAL(Allocator::block_size(65), 128u);
  for (std::size_t bytes = 1; bytes < 100'000'000; bytes += bytes / 7 + 1) {
    const std::size_t size = Allocator::block_size(bytes);
    BOOST_CHECK_EQUAL(size % 64, 0u);
    BOOST_CHECK_GE(size, bytes);
    BOOST_CHECK_LT(size, bytes + 64);
    BOOST_CHECK_EQUAL(Allocator::block_size(size), size);
  }
}

BOOST_AUTO_TEST_CASE(counters) {
  Allocator own;
  void* a = own.allocate(1000);
  void* b = own.allocate(100);
  BOOST_CHECK_EQUAL(reinterpret_cast<std::uintptr_t>(a) % 64, 0u);
  const std::size_t size_a = Allocator::block_size(1000), size_b = Allocator::block_size(100);
  BOOST_CHECK_EQUAL(own.stats().current, size_a + size_b);
  own.deallocate(a, 1000);
  BOOST_CHECK_EQUAL(own.stats().current, size_b);
  BOOST_CHECK_GE(own.stats().cached, size_a);
  BOOST_CHECK_EQUAL(own.stats().peak, size_a + size_b);
  own.reset_peak();
  BOOST_CHECK_EQUAL(own.stats().peak, size_b);
  void* again = own.allocate(990);
  BOOST_CHECK(again == a);
  BOOST_CHECK_EQUAL(own.stats().system_allocations, 1u);
  own.deallocate(again, 990);
  own.deallocate(b, 100);
  BOOST_CHECK_EQUAL(own.stats().current, 0u);
  own.release_cache();
  BOOST_CHECK_EQUAL(own.stats().cached, 0u);
}

BOOST_AUTO_TEST_CASE(the_limit_holds) {
  Allocator own;
  own.set_limit(1024);
  void* a = own.allocate(512);
  BOOST_CHECK_EXCEPTION(own.allocate(1000), OutOfMemory, says({"1000 bytes", "512", "1024"}));
  try {
    const OpScope scope("softmax");
    own.allocate(1000);
    BOOST_ERROR("nothing was thrown");
  } catch (const OutOfMemory& e) {
    says({"softmax:", "1000 bytes"})(e);
    BOOST_CHECK_EQUAL(e.requested(), 1000u);
    BOOST_CHECK_EQUAL(e.in_use(), 512u);
    BOOST_CHECK_EQUAL(e.limit(), 1024u);
  }
  BOOST_CHECK_EQUAL(own.stats().current, 512u);
  void* b = own.allocate(512);
  BOOST_CHECK_EQUAL(own.stats().current, 1024u);
  BOOST_CHECK_THROW(own.allocate(1), OutOfMemory);
  own.deallocate(a, 512);
  own.deallocate(b, 512);
  void* whole = own.allocate(1024);
  BOOST_CHECK_EQUAL(own.stats().current, 1024u);
  own.deallocate(whole, 1024);
  own.set_limit(0);
  void* larger = own.allocate(4096);
  own.deallocate(larger, 4096);
}

BOOST_AUTO_TEST_CASE(what_the_system_refuses) {
  Allocator own;
  for (const std::size_t bytes : {std::size_t{1} << 60, ~std::size_t{0}, ~std::size_t{0} - 63}) {
    BOOST_CHECK_THROW(own.allocate(bytes), OutOfMemory);
  }
  BOOST_CHECK_EQUAL(own.stats().current, 0u);
}

BOOST_AUTO_TEST_CASE(nothing_leaks_after_running_out) {
  const std::size_t before = allocator().stats().current;
  {
    const MemoryLimit limit(before + 10'000);
    BOOST_CHECK_THROW(Tensor::zeros({100, 100}), OutOfMemory);
    const Tensor small = Tensor::zeros({10, 10});
    BOOST_CHECK_THROW(small.reshape({100}).to(DType::kFloat64).reshape({100}).clone().to(DType::kFloat32);
                      Tensor::zeros({3000}), OutOfMemory);
  }
  BOOST_CHECK_EQUAL(allocator().stats().current, before);
  BOOST_CHECK_EQUAL(allocator().stats().limit, 0u);
  BOOST_CHECK_NO_THROW(Tensor::zeros({100, 100}));
}

BOOST_AUTO_TEST_CASE(memory_limits_nest) {
  const MemoryLimit outer(std::size_t{1} << 40);
  {
    const MemoryLimit inner(std::size_t{1} << 30);
    BOOST_CHECK_EQUAL(allocator().stats().limit, std::size_t{1} << 30);
  }
  BOOST_CHECK_EQUAL(allocator().stats().limit, std::size_t{1} << 40);
}

BOOST_AUTO_TEST_CASE(the_tightest_limit_counts_whatever_ends_first) {
  constexpr std::size_t kOne = std::size_t{1} << 30;
  auto wide = std::make_unique<MemoryLimit>(3 * kOne);
  auto tight = std::make_unique<MemoryLimit>(kOne);
  const MemoryLimit none(0);
  BOOST_CHECK_EQUAL(allocator().stats().limit, kOne);
  allocator().set_limit(2 * kOne);
  BOOST_CHECK_EQUAL(allocator().stats().limit, kOne);
  wide.reset();  // as where the scopes are of two threads
  BOOST_CHECK_EQUAL(allocator().stats().limit, kOne);
  tight.reset();
  BOOST_CHECK_EQUAL(allocator().stats().limit, 2 * kOne);
  allocator().set_limit(0);
  BOOST_CHECK_EQUAL(allocator().stats().limit, 0u);
}

BOOST_AUTO_TEST_CASE(meters_may_overlap) {
  const std::size_t before = allocator().stats().current;
  auto first = std::make_unique<PeakMeter>();
  Tensor large = Tensor::zeros({1000, 64});
  const std::size_t bytes = allocator().stats().current - before;
  large = {};
  auto second = std::make_unique<PeakMeter>();
  const Tensor small = Tensor::zeros({10, 64});
  BOOST_CHECK_EQUAL(first->peak(), before + bytes);
  BOOST_CHECK_EQUAL(second->peak(), allocator().stats().current);
  first.reset();
  large = Tensor::zeros({1000, 64});
  BOOST_CHECK_EQUAL(second->peak(), allocator().stats().current);
}

BOOST_AUTO_TEST_CASE(scopes_of_several_threads) {
  Allocator& memory = allocator();
  const std::size_t before = memory.stats().current;
  std::atomic<bool> peaks_hold = true;
  const auto work = [&](std::size_t limit) {
    for (int i = 0; i < 500; ++i) {
      const MemoryLimit within(limit);
      const PeakMeter meter;
      const Tensor t = Tensor::zeros({100, 64});
      if (meter.peak() < before + t.bytes()) peaks_hold = false;
    }
  };
  std::vector<std::thread> threads;
  for (const std::size_t limit : {1u << 28, 1u << 29, 1u << 30}) threads.emplace_back(work, limit);
  for (std::thread& thread : threads) thread.join();
  BOOST_TEST(peaks_hold);
  BOOST_CHECK_EQUAL(memory.stats().limit, 0u);
  BOOST_CHECK_EQUAL(memory.stats().current, before);
}

BOOST_AUTO_TEST_CASE(a_steady_state_asks_the_system_for_nothing) {
  const auto step = [] {
    const Tensor a = Tensor::zeros({300, 7}), b = a.to(DType::kFloat64), c = b.clone(), d = Tensor::zeros({});
  };
  step();
  const std::uint64_t before = allocator().stats().system_allocations;
  for (int i = 0; i < 10'000; ++i) step();  // together far more than a segment
  BOOST_CHECK_EQUAL(allocator().stats().system_allocations, before);
}

BOOST_AUTO_TEST_CASE(poisoned_memory_is_nan) {
  allocator().set_poison(true);
  const Tensor f32 = Tensor::empty({7}), f64 = Tensor::empty({7}, DType::kFloat64);
  allocator().set_poison(false);
  for (const Tensor& t : {f32, f64}) {
    for (const double v : doubles(t)) BOOST_CHECK(std::isnan(v));
  }
}

BOOST_AUTO_TEST_CASE(a_pool_keeps_its_blocks_to_itself) {
  Allocator& memory = allocator();
  memory.release_cache();
  const Device::MemoryStats before = memory.stats();
  Tensor old = Tensor::full({1000}, 1), outliving;
  const std::byte* const old_place = old.raw();
  {
    const MemoryPool pool(Device::cpu());
    std::vector<const std::byte*> places;
    {
      const auto scope = pool.use();
      for (const std::int64_t n : {1000, 50'000}) {
        const Tensor first = Tensor::full({n}, 2);
        places.push_back(first.raw());
      }
      // Within the scope they are handed out again.
      BOOST_TEST(Tensor::full({1000}, 2).raw() == places[0]);
      outliving = Tensor::full({2000}, 3);
      old = {};
    }
    std::vector<Tensor> others;
    for (int i = 0; i < 20; ++i) {
      for (const std::int64_t n : {1000, 50'000}) {
        const Tensor& other = others.emplace_back(Tensor::full({n}, 4));
        for (const std::byte* place : places) BOOST_TEST(other.raw() != place);
        BOOST_TEST(other.raw() != old_place);
        BOOST_TEST(other.raw() != outliving.raw());
      }
    }
    BOOST_TEST(memory.stats().current >= Allocator::block_size(1000 * sizeof(float)));
  }
  for (const double v : doubles(outliving)) BOOST_TEST(v == 3);
  outliving = {};
  BOOST_TEST(memory.stats().current == before.current);
  memory.release_cache();
  BOOST_TEST(memory.stats().cached == before.cached);
}

BOOST_AUTO_TEST_CASE(used_from_many_threads) {
  const std::size_t before = allocator().stats().current;
  std::atomic<int> foreign_values = 0;
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&, i] {
        for (int repeat = 0; repeat < 500; ++repeat) {
          const Tensor t = Tensor::full({1 + (repeat * (i + 1)) % 50}, i, DType::kInt32);
          for (const std::int32_t v : t.to_vector<std::int32_t>()) {
            if (v != i) ++foreign_values;
          }
        }
      });
    }
  }
  BOOST_CHECK_EQUAL(foreign_values.load(), 0);
  BOOST_CHECK_EQUAL(allocator().stats().current, before);
}

BOOST_AUTO_TEST_SUITE_END()
