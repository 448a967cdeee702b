#include "checks.h"

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <type_traits>
#include <vector>

#include "tapecache/autograd/tape.h"
#include "tapecache/core/allocator.h"
#include "tapecache/core/error.h"
#include "tapecache/core/tensor.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/linear.h"
#include "tapecache/ops/reduce.h"

using namespace tapecache;
using namespace tapecache::testing;

namespace {

template <class T>
concept CanBeWrapped = requires(T* elements) {
  Tensor::wrap(elements, Shape{1});
};
static_assert(CanBeWrapped<float> && !CanBeWrapped<const float>);

}  // namespace

BOOST_AUTO_TEST_SUITE(wrapped_memory)

BOOST_AUTO_TEST_CASE(is_neither_copied_nor_counted) {
  std::vector<float> values{1, 2, 3, 4, 5, 6};
  const std::size_t before = allocator().stats().current;
  Tensor t = Tensor::wrap(values.data(), {3, 2});
  BOOST_CHECK_EQUAL(allocator().stats().current, before);
  BOOST_CHECK(t.data<float>() == values.data() && t.dtype() == DType::kFloat32);
  values[0] = 9;
  check_equal(t, {9, 2, 3, 4, 5, 6});
  const std::uint64_t version = t.version();
  t.slice(1, 2).fill(7);
  BOOST_CHECK_GT(t.version(), version);
  BOOST_CHECK_EQUAL(values[3], 7);
  t.reshape({6}).copy_from(Tensor::from({6.f, 5.f, 4.f, 3.f, 2.f, 1.f}, {6}));
  BOOST_CHECK(values == (std::vector<float>{6, 5, 4, 3, 2, 1}));
  t.accumulate(Tensor::full({3, 2}, 1));
  BOOST_CHECK_EQUAL(values[5], 2);
  Tensor copy = t.clone();
  BOOST_CHECK(copy.data<float>() != values.data());
  check_equal(t.to(DType::kInt64), {7, 6, 5, 4, 3, 2});
  BOOST_CHECK(t.to(Device::cpu()).shares_storage(t) && !t.is_pinned());
  t.move_to(Device::cpu());
  BOOST_CHECK(t.data<float>() == values.data());
}

BOOST_AUTO_TEST_CASE(that_is_passed_as_a_gradient_is_not_added_to) {
  // Each call wraps the buffer anew, so that each storage has but one owner.
  static double buffer[1];
  buffer[0] = 1;
  Tape tape;
  const Variable x = tape.leaf(Tensor::from({2.0}, {1}));
  Variable total;
  {
    const Recording recording(tape);
    const Variable y = ops::scale(x, 1);
    const auto passing = [&] {
      return record("passing", y.value().clone(), {y}, {}, [](Backward& b) { b.pass(0, Tensor::wrap(buffer, {1})); });
    };
    total = ops::add(ops::add(passing(), passing()), passing());
  }
  tape.backward(total);
  check_equal(tape.gradient(x), {3});
  BOOST_CHECK_EQUAL(buffer[0], 1);
}

BOOST_AUTO_TEST_CASE(is_released_once_with_the_last_view) {
  int released = 0;
  auto values = std::make_unique<double[]>(4);
  Tensor view;
  {
    const Tensor t = Tensor::wrap(static_cast<void*>(values.get()), {4}, DType::kFloat64, [&] { ++released; });
    view = t.slice(2, 4);
  }
  BOOST_CHECK_EQUAL(released, 0);
  view.fill(3);
  view = Tensor();
  BOOST_CHECK_EQUAL(released, 1);
  BOOST_CHECK_EQUAL(values[2], 3);
  (void)Tensor::wrap(values.get(), {4}, [&] { ++released; });
  BOOST_CHECK_EQUAL(released, 2);
}

BOOST_AUTO_TEST_CASE(is_released_when_a_device_takes_its_place) {
  int released = 0;
  std::vector<double> values{1, 2};
  Tensor t = Tensor::wrap(values.data(), {2}, [&] { ++released; });
  if (Device::cuda_count() == 0) {
    BOOST_CHECK_THROW(t.move_to(Device::cuda()), DeviceError);
    BOOST_CHECK_EQUAL(released, 0);
    BOOST_CHECK(t.data<double>() == values.data());
    return;
  }
  check_equal(t.to(Device::cuda()), {1, 2});
  check_equal(t.pinned(), {1, 2});
  t.copy_from_async(Tensor::full({2}, 5, DType::kFloat64, Device::cuda()));
  BOOST_CHECK_EQUAL(values[1], 5);
  BOOST_CHECK_EQUAL(released, 0);
  t.move_to(Device::cuda());
  BOOST_CHECK_EQUAL(released, 1);
  t.move_to(Device::cpu());
  check_equal(t, {5, 5});
  t = Tensor();
  BOOST_CHECK_EQUAL(released, 1);
}

BOOST_AUTO_TEST_CASE(what_cannot_be_wrapped_is_not_released) {
  int released = 0;
  const auto release = [&] { ++released; };
  alignas(8) std::byte bytes[32] = {};
  BOOST_CHECK_EXCEPTION(Tensor::wrap(nullptr, {2, 3}, DType::kFloat32, release), ValueError,
                        says({"wrap:", "memory", "null", "24 bytes", "[2, 3]"}));
  BOOST_CHECK_EXCEPTION(Tensor::wrap(bytes + 4, {2}, DType::kInt64, release), ValueError,
                        says({"wrap:", "memory", "multiple of 8", "int64"}));
  BOOST_CHECK_THROW(Tensor::wrap(bytes + 1, {2}, DType::kFloat16, release), ValueError);
  BOOST_CHECK_EQUAL(released, 0);
  BOOST_CHECK_EQUAL(Tensor::wrap(bytes + 1, {2}, DType::kUInt8, release).numel(), 2);
  BOOST_CHECK_EQUAL(released, 1);
  BOOST_CHECK_EQUAL(Tensor::wrap(nullptr, {0, 3}, DType::kFloat32, release).clone().numel(), 0);
  BOOST_CHECK_EQUAL(released, 2);
}

BOOST_AUTO_TEST_CASE(is_computed_with_at_any_element) {
  // 64-byte vectors of the kernels start at every place of a line of the cache.
  constexpr std::int64_t kSize = 37;
  const Tensor a = random_values({kSize, kSize}, 1, DType::kFloat32),
               b = random_values({kSize, kSize}, 2, DType::kFloat32);
  const Tensor expected = ops::matmul(a, b).value(), expected_sum = ops::sum(a).value();
  for (int offset = 0; offset < 16; ++offset) {
    std::vector<float> room(kSize * kSize + 16);
    Tensor moved = Tensor::wrap(room.data() + offset, {kSize, kSize});
    moved.copy_from(a);
    BOOST_CHECK(same_bits(ops::matmul(moved, b).value(), expected));
    BOOST_CHECK(same_bits(ops::sum(moved).value(), expected_sum));
  }
}

BOOST_AUTO_TEST_SUITE_END()
