#include <cstdint>
#include <string>
#include <vector>

#include "checks.h"
#include "cuda_device.h"
#include "tapecache/core/allocator.h"
#include "tapecache/core/error.h"
#include "tapecache/core/memory_pool.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/linear.h"

// Page-locked memory, copies beside computing, and the memory that both use. Under emulation a wait that is missing
// shows in one of two orders: see tools/cuda_emulator/cuda_runtime.h.

using namespace tapecache;
using namespace tapecache::testing;

namespace {

constexpr std::int64_t kMany = 30'000;

Tensor values(std::uint64_t seed, std::int64_t n = kMany) { return random_values({n}, seed, DType::kFloat32); }

}  // namespace

BOOST_AUTO_TEST_SUITE(cuda)
BOOST_AUTO_TEST_SUITE(copies)

BOOST_AUTO_TEST_CASE(pinned_tensors_are_the_hosts, *on_device) {
  const Device::MemoryStats before = pinned_allocator().stats();
  {
    const Tensor host = values(1), pinned = host.pinned();
    BOOST_TEST((pinned.is_pinned() && !host.is_pinned() && pinned.device().is_cpu()));
    BOOST_TEST(same_bits(pinned, host));
    BOOST_TEST((pinned.pinned().shares_storage(pinned) && !pinned.shares_storage(host)));
    BOOST_TEST(!pinned.clone().is_pinned());
    BOOST_TEST(same_bits(pinned.to(kCuda).pinned(), host));
    BOOST_TEST(pinned_allocator().stats().current - before.current == Allocator::block_size(host.bytes()));
    BOOST_TEST(Tensor::empty_pinned({2, 3}, DType::kInt64).is_pinned());
    Tensor moved = host.pinned();
    moved.move_to(kCuda);
    BOOST_TEST((!moved.is_pinned() && same_bits(moved, host)));
    moved.move_to(Device::cpu());
    BOOST_TEST((!moved.is_pinned() && same_bits(moved, host)));
  }
  BOOST_TEST(pinned_allocator().stats().current == before.current);
  for (const DType dtype : {DType::kFloat64, DType::kBFloat16, DType::kInt32, DType::kBool}) {
    const Tensor host = vector_of({0, 1, 2, 100, 0, 7}).to(dtype), pinned = host.pinned();
    for (const Tensor& there : {pinned.to(kCuda), pinned.to_async(kCuda), host.to_async(kCuda)}) {
      BOOST_TEST((there.device() == kCuda));
      BOOST_TEST(same_bits(there, host));
      BOOST_TEST(same_bits(there.to_async(Device::cpu()), host));
      BOOST_TEST(same_bits(there.slice(2, 5).to_async(Device::cpu()), host.slice(2, 5)));
    }
    BOOST_TEST(same_bits(pinned.slice(1, 3).to_async(kCuda), host.slice(1, 3)));
  }
  BOOST_TEST((Tensor::zeros({0, 3}).to_async(kCuda).to_async(Device::cpu()).shape() == Shape{0, 3}));
}

BOOST_AUTO_TEST_CASE(pinned_memory_has_a_limit, *on_device) {
  Allocator& memory = pinned_allocator();
  memory.set_limit(memory.stats().current + 1000);
  BOOST_CHECK_EXCEPTION(Tensor::empty_pinned({kMany}), OutOfMemory, says({"120000 bytes of page-locked memory"}));
  memory.set_limit(0);
  BOOST_TEST(Tensor::empty_pinned({kMany}).is_pinned());
  memory.release_cache();
  BOOST_TEST(same_bits(values(1).pinned(), values(1)));
}

BOOST_AUTO_TEST_CASE(a_copy_keeps_the_values_that_it_was_asked_for, *on_device) {
  Tensor pinned = values(1).pinned(), host = values(1);
  const Tensor there = pinned.to_async(kCuda), there_too = host.to_async(kCuda), by_to = pinned.to(kCuda);
  pinned.fill(7);
  host.fill(7);
  for (const Tensor& t : {there, there_too, by_to}) BOOST_TEST(same_bits(t, values(1)));
  Tensor device = values(2).to(kCuda);
  const Tensor here = device.to_async(Device::cpu());
  device.fill(7);
  BOOST_TEST((here.is_pinned() && same_bits(here, values(2))));
}

BOOST_AUTO_TEST_CASE(what_uses_a_copy_comes_after_it, *on_device) {
  const Tensor pinned = values(1).pinned();
  const Tensor there = pinned.to_async(kCuda);
  const Tensor twice = ops::scale(there, 2.0).value();
  const Tensor back = twice.to_async(Device::cpu());
  BOOST_TEST(back.data<float>()[3] == 2 * values(1).data<float>()[3]);
  BOOST_TEST(same_bits(back, ops::scale(values(1), 2.0).value()));
  Tensor target = Tensor::empty_pinned({kMany});
  target.copy_from_async(there);
  target.mutable_data<float>()[0] = 5;
  BOOST_TEST(target.data<float>()[0] == 5);
  BOOST_TEST(target.data<float>()[1] == values(1).data<float>()[1]);
}

BOOST_AUTO_TEST_CASE(memory_that_a_copy_still_uses_is_not_handed_out, *on_device) {
  const auto both = [](const Tensor& host) {
    for (const Tensor& from : {host, host.pinned()}) {
      Tensor there = from.to_async(kCuda);
      there = Tensor();
      Tensor next = Tensor::full({kMany}, 3, DType::kFloat32, kCuda);
      BOOST_TEST(same_bits(next, Tensor::full({kMany}, 3)));
    }
    Tensor pinned = host.pinned();
    const Tensor there = pinned.to_async(kCuda);
    pinned = Tensor();
    const Tensor next = Tensor::full({kMany}, 3).pinned();
    BOOST_TEST(same_bits(there, host));
    Tensor device = host.to(kCuda);
    const Tensor here = device.to_async(Device::cpu());
    device = Tensor();
    const Tensor other = Tensor::full({kMany}, 4, DType::kFloat32, kCuda);
    BOOST_TEST(same_bits(here, host));
    BOOST_TEST(same_bits(next, Tensor::full({kMany}, 3)));
  };
  both(values(1));
  pinned_allocator().release_cache();
  allocator(kCuda).release_cache();
  both(values(2));
}

BOOST_AUTO_TEST_CASE(memory_that_work_still_uses_is_not_copied_into, *on_device) {
  const Tensor host = values(3).pinned();
  for (int i = 0; i < 3; ++i) {
    Tensor x = Tensor::full({kMany}, i, DType::kFloat32, kCuda);
    const Tensor y = ops::scale(x, 2.0).value();
    const std::byte* place = x.raw();
    x = Tensor();
    const Tensor z = host.to_async(kCuda);
    if (kCuda.name() == "emulated") BOOST_TEST(z.raw() == place);
    BOOST_TEST(same_bits(y, Tensor::full({kMany}, 2 * i)));
    BOOST_TEST(same_bits(z, host));
  }
}

BOOST_AUTO_TEST_CASE(copies_keep_their_order, *on_device) {
  Tensor host = Tensor::empty_pinned({4, kMany}), there = Tensor::empty({4, kMany}, DType::kFloat32, kCuda);
  for (std::int64_t i = 0; i < 4; ++i) {
    host.slice(i, i + 1).copy_from_async(values(static_cast<std::uint64_t>(i)).reshape({1, kMany}).to(kCuda));
    there.slice(i, i + 1).copy_from_async(host.slice(i, i + 1));
  }
  for (std::int64_t i = 0; i < 4; ++i) {
    BOOST_TEST(same_bits(there.slice(i, i + 1).reshape({kMany}), values(static_cast<std::uint64_t>(i))));
  }
  BOOST_TEST(same_bits(there, host));
  Tensor ordinary = Tensor::zeros({4, kMany});
  ordinary.copy_from_async(there);
  BOOST_TEST(same_bits(ordinary, host));
  BOOST_CHECK_EXCEPTION(ordinary.copy_from_async(values(1)), ShapeError,
                        says({"copy_from_async", "[30000]", "[4, 30000]"}));
  BOOST_CHECK_THROW(there.copy_from_async(host.to(DType::kFloat64)), ShapeError);
}

BOOST_AUTO_TEST_CASE(a_steady_state_of_copies_asks_the_system_for_nothing, *on_device) {
  const Tensor host = values(1), pinned = host.pinned();
  const auto step = [&] {
    const Tensor a = host.to_async(kCuda), b = pinned.to_async(kCuda);
    return ops::add(a, b).value().to_async(Device::cpu());
  };
  for (int i = 0; i < 3; ++i) step();
  const std::uint64_t there = allocator(kCuda).stats().system_allocations,
                      here = pinned_allocator().stats().system_allocations;
  for (int i = 0; i < 20; ++i) step();
  BOOST_TEST(allocator(kCuda).stats().system_allocations == there);
  BOOST_TEST(pinned_allocator().stats().system_allocations == here);
  BOOST_TEST(same_bits(step(), ops::scale(host, 2.0).value()));
}

BOOST_AUTO_TEST_CASE(a_block_freed_while_it_is_copied_goes_back_to_its_pool, *on_device) {
  Allocator& memory = allocator(kCuda);
  kCuda.synchronize();
  memory.release_cache();
  const std::size_t before = memory.stats().current + memory.stats().cached;
  {
    const MemoryPool pool(kCuda);
    Tensor there;
    {
      const auto scope = pool.use();
      there = values(1).to(kCuda);
    }
    const Tensor back = there.to_async(Device::cpu());
    there = {};
    BOOST_TEST(same_bits(back, values(1)));
    values(2).to(kCuda);  // sees that the copy has ended
  }
  memory.release_cache();
  BOOST_TEST(memory.stats().current + memory.stats().cached == before);
}

BOOST_AUTO_TEST_CASE(more_than_a_device_has_is_out_of_memory, *on_device) {
  const std::int64_t too_many = std::int64_t{1} << (kCuda.name() == "emulated" ? 48 : 40);
  BOOST_CHECK_EXCEPTION(Tensor::empty({too_many}, DType::kFloat32, kCuda), OutOfMemory,
                        says({"allocate", std::to_string(4 * too_many), "what the system gives"}));
  const Tensor x = values(1, 1 << 20).to(kCuda);
  allocator(kCuda).release_cache();
  BOOST_TEST(same_bits(x, values(1, 1 << 20)));
  BOOST_TEST(Tensor::full({1 << 20}, 2, DType::kFloat32, kCuda).slice(99, 100).item() == 2);
}

BOOST_AUTO_TEST_SUITE_END()
BOOST_AUTO_TEST_SUITE_END()
