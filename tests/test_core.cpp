#include "checks.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "tapecache/core/allocator.h"
#include "tapecache/core/device.h"
#include "tapecache/core/dtype.h"
#include "tapecache/core/error.h"
#include "tapecache/core/op_scope.h"
#include "tapecache/core/parallel_for.h"
#include "tapecache/core/random.h"
#include "tapecache/core/shape.h"
#include "tapecache/core/tensor.h"

using namespace tapecache;
using namespace tapecache::testing;

namespace {

constexpr DType kAllTypes[] = {DType::kFloat32, DType::kFloat64, DType::kBFloat16, DType::kInt32,
                               DType::kInt64,   DType::kUInt8,   DType::kBool};

std::uint16_t bfloat16_bits(float value) { return BFloat16(value).bits; }
float from_bits(std::uint32_t bits) { return std::bit_cast<float>(bits); }

}  // namespace

BOOST_AUTO_TEST_SUITE(types)

BOOST_AUTO_TEST_CASE(names_and_sizes) {
  const std::vector<std::pair<std::string_view, std::size_t>> expected{
      {"float32", 4}, {"float64", 8}, {"bfloat16", 2}, {"int32", 4}, {"int64", 8}, {"uint8", 1}, {"bool", 1}};
  for (std::size_t i = 0; i < expected.size(); ++i) {
    BOOST_CHECK_EQUAL(name(kAllTypes[i]), expected[i].first);
    BOOST_CHECK_EQUAL(size_of(kAllTypes[i]), expected[i].second);
    BOOST_CHECK_EQUAL(is_floating(kAllTypes[i]), i < 3);
  }
}

BOOST_AUTO_TEST_CASE(bfloat16_rounds_to_nearest_even) {
  BOOST_CHECK_EQUAL(bfloat16_bits(from_bits(0x3f800000)), 0x3f80);  // 1
  BOOST_CHECK_EQUAL(bfloat16_bits(from_bits(0x3f807fff)), 0x3f80);  // below a tie
  BOOST_CHECK_EQUAL(bfloat16_bits(from_bits(0x3f808000)), 0x3f80);  // tie, even below
  BOOST_CHECK_EQUAL(bfloat16_bits(from_bits(0x3f808001)), 0x3f81);  // above a tie
  BOOST_CHECK_EQUAL(bfloat16_bits(from_bits(0x3f818000)), 0x3f82);  // tie, even above
  BOOST_CHECK_EQUAL(bfloat16_bits(from_bits(0xbf818000)), 0xbf82);
  BOOST_CHECK_EQUAL(bfloat16_bits(-0.0f), 0x8000);
}

BOOST_AUTO_TEST_CASE(bfloat16_at_the_ends_of_its_range) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  BOOST_CHECK_EQUAL(bfloat16_bits(kInfinity), 0x7f80);
  BOOST_CHECK_EQUAL(bfloat16_bits(-kInfinity), 0xff80);
  BOOST_CHECK_EQUAL(bfloat16_bits(std::numeric_limits<float>::max()), 0x7f80);  // rounds up to infinity
  BOOST_CHECK_EQUAL(bfloat16_bits(from_bits(0x7f7f0000)), 0x7f7f);              // its largest finite number
  BOOST_CHECK_EQUAL(bfloat16_bits(from_bits(0x00010000)), 0x0001);              // its smallest subnormal
  BOOST_CHECK_EQUAL(bfloat16_bits(from_bits(0x00008000)), 0x0000);              // half of it: a tie, to even
  BOOST_CHECK_EQUAL(bfloat16_bits(from_bits(0x00018000)), 0x0002);
  BOOST_CHECK_EQUAL(bfloat16_bits(from_bits(0x00000001)), 0x0000);
  BOOST_CHECK_EQUAL(bfloat16_bits(from_bits(0x007fffff)), 0x0080);  // subnormals round up into the normal range
}

BOOST_AUTO_TEST_CASE(bfloat16_keeps_nan) {
  for (const std::uint32_t bits : {0x7f800001u, 0x7fc00000u, 0x7fffffffu, 0xff800001u, 0xffffffffu}) {
    const BFloat16 converted(from_bits(bits));
    BOOST_CHECK_MESSAGE(std::isnan(static_cast<float>(converted)), "of bits " << bits);
    BOOST_CHECK_EQUAL(converted.bits >> 15, bits >> 31);
  }
}

BOOST_AUTO_TEST_CASE(bfloat16_round_trips) {
  for (std::uint32_t upper = 0; upper <= 0xffff; ++upper) {
    const float value = from_bits(upper << 16);
    if (std::isnan(value)) continue;
    BOOST_REQUIRE_EQUAL(bfloat16_bits(value), upper);
    BOOST_REQUIRE(std::bit_cast<std::uint32_t>(static_cast<float>(BFloat16(value))) == upper << 16);
  }
}

BOOST_AUTO_TEST_CASE(conversions_between_all_types) {
  const std::vector<double> values{0, 1, 2, 100};
  const Tensor source = vector_of(values);
  for (const DType from : kAllTypes) {
    for (const DType to : kAllTypes) {
      const bool through_bool = from == DType::kBool || to == DType::kBool;
      const Tensor converted = source.to(from).to(to);
      BOOST_CHECK(converted.dtype() == to);
      check_equal(converted, through_bool ? std::vector<double>{0, 1, 1, 1} : values);
    }
  }
}

BOOST_AUTO_TEST_CASE(conversions_to_integers_truncate) {
  check_equal(vector_of({1.9, -1.9, 0.5}).to(DType::kInt32), {1, -1, 0});
  check_equal(vector_of({0.25, -0.0, 0}).to(DType::kBool), {1, 0, 0});
  check_equal(vector_of({4294967297.0, -4294967297.0}).to(DType::kInt64), {4294967297.0, -4294967297.0});
}

BOOST_AUTO_TEST_CASE(float64_to_bfloat16) {
  check_equal(vector_of({1.0 / 3, 3.140625, 1e300}).to(DType::kBFloat16),
              {0.333984375, 3.140625, std::numeric_limits<double>::infinity()});
}

BOOST_AUTO_TEST_CASE(an_unchanged_type_is_the_same_handle) {
  const Tensor t = Tensor::zeros({3});
  BOOST_CHECK(t.to(DType::kFloat32).shares_storage(t));
  BOOST_CHECK(t.to(Device::cpu()).shares_storage(t));
  BOOST_CHECK(!t.to(DType::kFloat64).shares_storage(t));
}

BOOST_AUTO_TEST_CASE(other_devices_are_refused) {
  BOOST_CHECK_EXCEPTION(Tensor::zeros({3}).to(Device::cuda(1)), DeviceError, says({"to:", "cuda:1"}));
  BOOST_CHECK_EXCEPTION(Tensor::zeros({3}, DType::kFloat32, Device::cuda()), DeviceError, says({"cuda:0"}));
  BOOST_CHECK_EQUAL(to_string(Device::cpu()), "cpu");
  BOOST_CHECK_EQUAL(to_string(Device::cuda(2)), "cuda:2");
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(shapes)

BOOST_AUTO_TEST_CASE(sizes_and_axes) {
  const Shape shape{2, 3, 4};
  BOOST_CHECK_EQUAL(shape.rank(), 3);
  BOOST_CHECK_EQUAL(shape.numel(), 24);
  BOOST_CHECK_EQUAL(shape[0], 2);
  BOOST_CHECK_EQUAL(shape[-1], 4);
  BOOST_CHECK_EQUAL(shape.normalize_axis(-3), 0);
  BOOST_CHECK_EQUAL(shape.product(1, 3), 12);
  BOOST_CHECK_EQUAL(shape.product(1, 1), 1);
  BOOST_CHECK_EQUAL(to_string(shape), "[2, 3, 4]");
  BOOST_CHECK_EQUAL(to_string(Shape{}), "[]");
  BOOST_CHECK_EQUAL(Shape{}.numel(), 1);
  BOOST_CHECK_EQUAL((Shape{3, 0}).numel(), 0);
  BOOST_CHECK((Shape{1, 2} == Shape{1, 2}));
  BOOST_CHECK((Shape{1, 2} != Shape{2, 1}));
  BOOST_CHECK((Shape{1} != Shape{1, 1}));
  BOOST_CHECK((Shape{} != Shape{1}));
}

BOOST_AUTO_TEST_CASE(changed_shapes) {
  const Shape shape{2, 3, 4};
  BOOST_CHECK((shape.with(1, 7) == Shape{2, 7, 4}));
  BOOST_CHECK((shape.with(-1, 0) == Shape{2, 3, 0}));
  BOOST_CHECK((shape.without(0) == Shape{3, 4}));
  BOOST_CHECK((shape.without(-1) == Shape{2, 3}));
  BOOST_CHECK((Shape{5}.without(0) == Shape{}));
  BOOST_CHECK((shape.inserted(0, 9) == Shape{9, 2, 3, 4}));
  BOOST_CHECK((shape.inserted(3, 9) == Shape{2, 3, 4, 9}));
  BOOST_CHECK((shape.inserted(-1, 9) == Shape{2, 3, 4, 9}));
  BOOST_CHECK((Shape{}.inserted(0, 9) == Shape{9}));
}

BOOST_AUTO_TEST_CASE(bad_shapes) {
  constexpr std::int64_t kHuge = std::int64_t{1} << 40;
  BOOST_CHECK_EXCEPTION((Shape{2, -1}), ShapeError, says({"negative", "[2, -1]"}));
  BOOST_CHECK_EXCEPTION((Shape{1, 1, 1, 1, 1, 1, 1}), ShapeError, says({"7 axes", "6"}));
  BOOST_CHECK_EXCEPTION((Shape{kHuge, kHuge}), ShapeError, says({"too many elements"}));
  BOOST_CHECK_THROW((Shape{kHuge, 0, kHuge}), ShapeError);
  const Shape shape{2, 3};
  for (const int axis : {2, -3, std::numeric_limits<int>::max(), std::numeric_limits<int>::min()}) {
    BOOST_CHECK_EXCEPTION(shape[axis], ShapeError, says({"axis", std::to_string(axis), "[2, 3]"}));
    BOOST_CHECK_THROW(shape.with(axis, 1), ShapeError);
    BOOST_CHECK_THROW(shape.without(axis), ShapeError);
  }
  BOOST_CHECK_THROW(shape.with(0, -1), ShapeError);
  BOOST_CHECK_THROW(shape.inserted(3, 1), ShapeError);
  BOOST_CHECK_THROW(shape.inserted(-4, 1), ShapeError);
  BOOST_CHECK_THROW((Shape{1, 1, 1, 1, 1, 1}).inserted(0, 1), ShapeError);
  BOOST_CHECK_THROW(Shape{}[0], ShapeError);
}

BOOST_AUTO_TEST_CASE(broadcasting) {
  BOOST_CHECK((broadcast("f", {2, 3}, {2, 3}) == Shape{2, 3}));
  BOOST_CHECK((broadcast("f", {2, 3}, {3}) == Shape{2, 3}));
  BOOST_CHECK((broadcast("f", {}, {2, 3}) == Shape{2, 3}));
  BOOST_CHECK((broadcast("f", {3, 1, 4}, {2, 1}) == Shape{3, 2, 4}));
  BOOST_CHECK((broadcast("f", {}, {}) == Shape{}));
  BOOST_CHECK((broadcast("f", {1}, {0}) == Shape{0}));
  BOOST_CHECK((broadcast("f", {2, 1}, {1, 0}) == Shape{2, 0}));
  BOOST_CHECK_EXCEPTION(broadcast("f", {2, 3}, {2, 4}), ShapeError, says({"f:", "[2, 3]", "[2, 4]", "3 and 4"}));
  BOOST_CHECK_THROW(broadcast("f", {2, 3}, {2}), ShapeError);
  BOOST_CHECK_THROW(broadcast("f", {2}, {0}), ShapeError);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(tensors)

BOOST_AUTO_TEST_CASE(made_from_values) {
  const Tensor t = Tensor::from<std::int32_t>({1, 2, 3, 4, 5, 6}, {2, 3});
  BOOST_CHECK(t.dtype() == DType::kInt32);
  BOOST_CHECK_EQUAL(t.bytes(), 24u);
  BOOST_CHECK_EQUAL(t.size(-1), 3);
  check_equal(t, {1, 2, 3, 4, 5, 6});
  check_equal(Tensor::full({2}, 2.5), {2.5, 2.5});
  check_equal(Tensor::zeros({2}, DType::kInt64), {0, 0});
  check_equal(Tensor::full({2}, 3, DType::kBool), {1, 1});
  BOOST_CHECK_EQUAL(Tensor::scalar(1.5f).item(), 1.5);
  BOOST_CHECK_EXCEPTION(Tensor::from<double>({1, 2}, {3}), ShapeError, says({"2 values", "[3]"}));
  BOOST_CHECK_EQUAL(describe(t), "int32 [2, 3] on cpu");
}

BOOST_AUTO_TEST_CASE(views_share_storage) {
  Tensor t = Tensor::from<double>({0, 1, 2, 3, 4, 5}, {3, 2});
  const Tensor flat = t.reshape({6});
  Tensor rows = t.slice(1, 3);
  Tensor inner = rows.slice(1, 2);
  BOOST_CHECK(flat.shares_storage(t) && rows.shares_storage(t) && inner.shares_storage(t));
  check_equal(inner, {4, 5});
  inner.fill(9);
  check_equal(t, {0, 1, 2, 3, 9, 9});
  rows.copy_from(Tensor::from<double>({6, 7, 8, 8}, {2, 2}));
  check_equal(flat, {0, 1, 6, 7, 8, 8});
  rows.accumulate(Tensor::full({2, 2}, 1, DType::kFloat64));
  check_equal(flat, {0, 1, 7, 8, 9, 9});
  const Tensor copy = rows.clone();
  BOOST_CHECK(!copy.shares_storage(t));
  check_equal(copy, {7, 8, 9, 9});
  check_equal(rows.to(DType::kInt32), {7, 8, 9, 9});
  BOOST_CHECK_EQUAL(t.slice(1, 1).numel(), 0);
  BOOST_CHECK_EQUAL(t.slice(3, 3).numel(), 0);
}

BOOST_AUTO_TEST_CASE(a_view_outlives_its_source) {
  Tensor view;
  {
    const Tensor t = Tensor::from<double>({0, 1, 2, 3}, {4});
    view = t.slice(2, 4);
    BOOST_CHECK(!view.owns_storage_alone());
  }
  BOOST_CHECK(view.owns_storage_alone());
  check_equal(view, {2, 3});
}

BOOST_AUTO_TEST_CASE(versions_count_writes) {
  Tensor t = Tensor::zeros({4});
  const Tensor view = t.slice(0, 2);
  const std::uint64_t before = view.version();
  (void)t.data<float>();
  (void)t.raw();
  BOOST_CHECK_EQUAL(view.version(), before);
  t.mutable_data<float>();
  const std::uint64_t after_data = view.version();
  BOOST_CHECK_GT(after_data, before);
  t.fill(1);
  BOOST_CHECK_GT(view.version(), after_data);
}

BOOST_AUTO_TEST_CASE(bad_views) {
  const Tensor t = Tensor::zeros({3, 2});
  BOOST_CHECK_EXCEPTION(t.reshape({5}), ShapeError, says({"reshape", "[3, 2]", "6", "[5]"}));
  for (const auto& [begin, end] : {std::pair(-1, 2), std::pair(0, 4), std::pair(2, 1), std::pair(4, 4)}) {
    BOOST_CHECK_EXCEPTION(t.slice(begin, end), ShapeError, says({"slice", std::to_string(end), "[3, 2]"}));
  }
  BOOST_CHECK_THROW(Tensor::zeros({}).slice(0, 1), ShapeError);
}

BOOST_AUTO_TEST_CASE(bad_copies) {
  Tensor t = Tensor::zeros({3, 2});
  BOOST_CHECK_EXCEPTION(t.copy_from(Tensor::zeros({2, 3})), ShapeError, says({"copy_from", "[2, 3]", "[3, 2]"}));
  BOOST_CHECK_THROW(t.copy_from(Tensor::zeros({3, 2}, DType::kFloat64)), Error);
  BOOST_CHECK_THROW(t.copy_from(Tensor()), Error);
  BOOST_CHECK_THROW(t.accumulate(Tensor::zeros({6})), Error);
  Tensor whole = Tensor::zeros({2}, DType::kInt64);
  BOOST_CHECK_THROW(whole.accumulate(whole.clone()), DTypeError);
}

BOOST_AUTO_TEST_CASE(elements_of_another_type) {
  Tensor t = Tensor::zeros({3});
  BOOST_CHECK_EXCEPTION(t.data<double>(), DTypeError, says({"float64", "float32"}));
  BOOST_CHECK_THROW(t.mutable_data<std::int32_t>(), DTypeError);
  BOOST_CHECK_THROW(t.to_vector<double>(), DTypeError);
}

BOOST_AUTO_TEST_CASE(items) {
  for (const DType dtype : kAllTypes) BOOST_CHECK_EQUAL(Tensor::full({1, 1}, 1, dtype).item(), 1.0);
  BOOST_CHECK_EXCEPTION(Tensor::zeros({2}).item(), ShapeError, says({"item", "[2]"}));
  BOOST_CHECK_THROW(Tensor::zeros({0}).item(), ShapeError);
}

BOOST_AUTO_TEST_CASE(undefined_tensors) {
  Tensor t;
  BOOST_CHECK(!t.defined());
  BOOST_CHECK_EQUAL(describe(t), "an undefined tensor");
  BOOST_CHECK_THROW(t.device(), Error);
  BOOST_CHECK_THROW(t.data<float>(), Error);
  BOOST_CHECK_THROW(t.mutable_data<float>(), Error);
  BOOST_CHECK_THROW(t.raw(), Error);
  BOOST_CHECK_THROW(t.mutable_raw(), Error);
  BOOST_CHECK_THROW(t.item(), Error);
  BOOST_CHECK_THROW(t.clone(), Error);
  BOOST_CHECK_THROW(t.to(DType::kInt32), Error);
  BOOST_CHECK_THROW(t.fill(0), Error);
  BOOST_CHECK_THROW(t.version(), Error);
  BOOST_CHECK_THROW(t.to_vector<float>(), Error);
}

BOOST_AUTO_TEST_CASE(empty_tensors) {
  Tensor t = Tensor::zeros({0, 3});
  BOOST_CHECK(t.defined());
  t.fill(1);
  BOOST_CHECK_EQUAL(t.clone().numel(), 0);
  BOOST_CHECK_EQUAL(t.to(DType::kInt64).bytes(), 0u);
  BOOST_CHECK_EQUAL(t.to_vector<float>().size(), 0u);
  BOOST_CHECK((t.reshape({7, 0}).shape() == Shape{7, 0}));
  BOOST_CHECK_EQUAL(first_non_finite(t), -1);
}

BOOST_AUTO_TEST_CASE(non_finite_elements) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  BOOST_CHECK_EQUAL(first_non_finite(vector_of({1, 2})), -1);
  BOOST_CHECK_EQUAL(first_non_finite(vector_of({1, -kInfinity, std::nan("")})), 1);
  BOOST_CHECK_EQUAL(first_non_finite(vector_of({1, 2, std::nan("")}).to(DType::kBFloat16)), 2);
  BOOST_CHECK_EQUAL(first_non_finite(Tensor::zeros({3}, DType::kInt32)), -1);
}

BOOST_AUTO_TEST_CASE(too_large_to_address) {
  constexpr std::int64_t kHuge = std::int64_t{1} << 62;
  // Counted in bytes, these wrap around 64 bits.
  for (const DType dtype : {DType::kFloat64, DType::kFloat32}) {
    BOOST_CHECK_THROW(Tensor::empty({kHuge}, dtype), Error);
    BOOST_CHECK_THROW(Tensor::empty({kHuge + 1}, dtype), Error);
  }
}

BOOST_AUTO_TEST_SUITE_END()

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
    BOOST_CHECK_LE(size, std::max<std::size_t>(bytes + 64, bytes + bytes / 8));
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
  BOOST_CHECK_EQUAL(own.stats().cached, size_a);
  BOOST_CHECK_EQUAL(own.stats().peak, size_a + size_b);
  own.reset_peak();
  BOOST_CHECK_EQUAL(own.stats().peak, size_b);
  void* again = own.allocate(990);
  BOOST_CHECK(again == a);
  BOOST_CHECK_EQUAL(own.stats().system_allocations, 2u);
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
  // Cached blocks of another size give way.
  void* whole = own.allocate(1024);
  BOOST_CHECK_EQUAL(own.stats().cached, 0u);
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

BOOST_AUTO_TEST_CASE(a_steady_state_asks_the_system_for_nothing) {
  const auto step = [] {
    const Tensor a = Tensor::zeros({300, 7}), b = a.to(DType::kFloat64), c = b.clone(), d = Tensor::zeros({});
  };
  step();
  const std::uint64_t before = allocator().stats().system_allocations;
  for (int i = 0; i < 10; ++i) step();
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

BOOST_AUTO_TEST_SUITE(threads)

struct ThreadCount {
  int previous = thread_count();
  ~ThreadCount() { set_thread_count(previous); }
};

BOOST_FIXTURE_TEST_CASE(each_index_once, ThreadCount) {
  for (const int count : {1, 2, 3, 8}) {
    set_thread_count(count);
    BOOST_CHECK_EQUAL(thread_count(), count);
    for (const std::int64_t size : {0, 1, 5, 100, 1001}) {
      for (const std::int64_t block : {1, 7, 100, 5000}) {
        std::vector<std::atomic<int>> visits(static_cast<std::size_t>(size));
        std::atomic<bool> right_cuts = true;
        parallel_for(size, block, [&](std::int64_t begin, std::int64_t end) {
          if (begin % block != 0 || end != std::min(size, begin + block)) right_cuts = false;
          for (std::int64_t i = begin; i < end; ++i) ++visits[static_cast<std::size_t>(i)];
        });
        BOOST_CHECK(right_cuts);
        for (const auto& v : visits) BOOST_REQUIRE_EQUAL(v.load(), 1);
      }
    }
  }
}

BOOST_FIXTURE_TEST_CASE(no_block_for_no_work, ThreadCount) {
  parallel_for(0, 1, [](std::int64_t, std::int64_t) { BOOST_ERROR("called"); });
  parallel_for(-3, 1, [](std::int64_t, std::int64_t) { BOOST_ERROR("called"); });
}

BOOST_FIXTURE_TEST_CASE(exceptions_reach_the_caller, ThreadCount) {
  for (const int count : {1, 4}) {
    set_thread_count(count);
    std::atomic<int> running = 0;
    const auto body = [&](std::int64_t begin, std::int64_t) {
      ++running;
      std::this_thread::sleep_for(std::chrono::microseconds(100));
      --running;
      if (begin == 17) throw ValueError("of block 17");
    };
    BOOST_CHECK_EXCEPTION(parallel_for(100, 1, body), ValueError, says({"of block 17"}));
    BOOST_CHECK_EQUAL(running.load(), 0);
    std::atomic<int> after = 0;
    parallel_for(100, 1, [&](std::int64_t, std::int64_t) { ++after; });
    BOOST_CHECK_EQUAL(after.load(), 100);
  }
}

BOOST_FIXTURE_TEST_CASE(nested_work_is_done, ThreadCount) {
  set_thread_count(4);
  std::atomic<int> visits = 0;
  parallel_for(20, 1, [&](std::int64_t, std::int64_t) {
    const std::thread::id outer = std::this_thread::get_id();
    parallel_for(30, 1, [&](std::int64_t, std::int64_t) {
      if (std::this_thread::get_id() == outer) ++visits;
    });
  });
  BOOST_CHECK_EQUAL(visits.load(), 600);
}

BOOST_FIXTURE_TEST_CASE(callers_from_several_threads, ThreadCount) {
  set_thread_count(3);
  std::atomic<int> visits = 0;
  {
    std::vector<std::jthread> callers;
    for (int i = 0; i < 4; ++i) {
      callers.emplace_back([&] {
        for (int repeat = 0; repeat < 50; ++repeat) {
          parallel_for(40, 1, [&](std::int64_t, std::int64_t) { ++visits; });
        }
      });
    }
  }
  BOOST_CHECK_EQUAL(visits.load(), 4 * 50 * 40);
}

BOOST_FIXTURE_TEST_CASE(thread_counts_are_checked, ThreadCount) {
  for (const int count : {0, -1, 1025, std::numeric_limits<int>::max()}) {
    BOOST_CHECK_EXCEPTION(set_thread_count(count), ValueError,
                          says({"set_thread_count", std::to_string(count), "1", "1024"}));
  }
  BOOST_CHECK_EQUAL(thread_count(), previous);
}

BOOST_AUTO_TEST_CASE(blocks_of_even_work) {
  BOOST_CHECK_EQUAL(block_for(1, 100), 100);
  BOOST_CHECK_EQUAL(block_for(30, 100), 3);
  BOOST_CHECK_EQUAL(block_for(1000, 100), 1);
  BOOST_CHECK_EQUAL(block_for(0, 100), 1);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(random_states)

BOOST_AUTO_TEST_CASE(a_guard_leaves_no_trace) {
  begin_random_step(7, 8);
  next_random_draw("f", 3);
  const RandomState before = random_state();
  {
    const RandomStateGuard guard;
    begin_random_step(1, 2);
    next_random_draw("f", 3);
  }
  BOOST_CHECK(random_state() == before);
  BOOST_CHECK_EQUAL(before.key.call, 1u);
}

BOOST_AUTO_TEST_CASE(draws_take_call_numbers) {
  begin_random_step(7, 8);
  random_state().first_sample = 5;
  const RandomDraw first = next_random_draw("f", 3);
  random_state().samples = 4;
  const RandomDraw second = next_random_draw("f", 12);
  BOOST_CHECK((first.key == RandomKey{7, 8, 0}));
  BOOST_CHECK_EQUAL(first.first_sample, 5);
  BOOST_CHECK_EQUAL(first.samples, 3);
  BOOST_CHECK((second.key == RandomKey{7, 8, 1}));
  BOOST_CHECK_EQUAL(second.samples, 4);
  BOOST_CHECK_EXCEPTION(next_random_draw("dropout", 6), ShapeError, says({"dropout:", "6", "4"}));
  BOOST_CHECK_EQUAL(random_state().key.call, 2u);
  begin_random_step(0, 0);
}

BOOST_AUTO_TEST_CASE(each_thread_has_its_own) {
  begin_random_step(7, 8);
  std::jthread([] { begin_random_step(1, 2); }).join();
  BOOST_CHECK((random_state() == RandomState{{7, 8, 0}, 0, 0}));
  begin_random_step(0, 0);
}

BOOST_AUTO_TEST_SUITE_END()
