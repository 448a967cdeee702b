#include "checks.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>

#include "all_types.h"
#include "tapecache/core/allocator.h"
#include "tapecache/core/error.h"
#include "tapecache/core/tensor.h"
#include "tapecache/core/value_checks.h"

using namespace tapecache;
using namespace tapecache::testing;

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
  BOOST_CHECK_EXCEPTION(shape.product(1, 4), ShapeError, says({"axes [1, 4)", "[2, 3, 4]"}));
  BOOST_CHECK_EXCEPTION(shape.product(-1, 2), ShapeError, says({"axes [-1, 2)"}));
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
  BOOST_CHECK((Shape::broadcast("f", {2, 3}, {2, 3}) == Shape{2, 3}));
  BOOST_CHECK((Shape::broadcast("f", {2, 3}, {3}) == Shape{2, 3}));
  BOOST_CHECK((Shape::broadcast("f", {}, {2, 3}) == Shape{2, 3}));
  BOOST_CHECK((Shape::broadcast("f", {3, 1, 4}, {2, 1}) == Shape{3, 2, 4}));
  BOOST_CHECK((Shape::broadcast("f", {}, {}) == Shape{}));
  BOOST_CHECK((Shape::broadcast("f", {1}, {0}) == Shape{0}));
  BOOST_CHECK((Shape::broadcast("f", {2, 1}, {1, 0}) == Shape{2, 0}));
  BOOST_CHECK_EXCEPTION(Shape::broadcast("f", {2, 3}, {2, 4}), ShapeError, says({"f:", "[2, 3]", "[2, 4]", "3 and 4"}));
  BOOST_CHECK_THROW(Shape::broadcast("f", {2, 3}, {2}), ShapeError);
  BOOST_CHECK_THROW(Shape::broadcast("f", {2}, {0}), ShapeError);
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

BOOST_AUTO_TEST_CASE(copies_beside_other_work_are_plain_copies_on_the_host) {
  const Tensor t = random_values({3, 4}, 1);
  BOOST_CHECK(t.to_async(Device::cpu()).shares_storage(t));
  Tensor copy = Tensor::empty({3, 4}, DType::kFloat64);
  copy.copy_from_async(t);
  BOOST_CHECK(same_bits(copy, t));
  BOOST_CHECK_EXCEPTION(copy.copy_from_async(t.slice(0, 2)), ShapeError, says({"copy_from_async", "[2, 4]", "[3, 4]"}));
  BOOST_CHECK_EXCEPTION(copy.copy_from_async(Tensor()), ShapeError, says({"undefined"}));
  if (Device::cuda_count() > 0) return;  // then there is page-locked memory: test_cuda_copies.cpp
  BOOST_CHECK(t.pinned().shares_storage(t) && !t.is_pinned());
  BOOST_CHECK(!Tensor::empty_pinned({3, 4}).is_pinned());
  BOOST_CHECK_THROW(t.to_async(Device::cuda()), DeviceError);
  BOOST_CHECK_THROW(pinned_allocator().allocate(64), DeviceError);
  BOOST_CHECK_EQUAL(pinned_allocator().stats().current, 0u);
}

BOOST_AUTO_TEST_CASE(the_cpu_answers_as_a_device) {
  BOOST_CHECK_EQUAL(Device::cpu().name(), "cpu");
  const std::uint64_t waits = Device::waits();
  Device::cpu().synchronize();
  BOOST_CHECK_EQUAL(Device::waits(), waits);
  BOOST_CHECK_EXCEPTION(Device::cpu().versions(), DeviceError, says({"Device::versions", "CPU", "CUDA device"}));
  Tensor ids = Tensor::from({1, 2}, {2});
  const std::uint64_t version = ids.version();
  BOOST_CHECK_THROW(ids.accumulate(Tensor::from({1, 2}, {2})), DTypeError);
  BOOST_CHECK_EQUAL(ids.version(), version);  // what is refused is no change
}

BOOST_AUTO_TEST_CASE(a_device_that_is_not_there_is_named) {
  const Device missing = Device::cuda(Device::cuda_count());
  const Tensor t = Tensor::zeros({2});
  const std::string name = to_string(missing);
  BOOST_CHECK_EXCEPTION(t.to(missing), DeviceError, says({"to: ", name}));
  BOOST_CHECK_EXCEPTION(t.to_async(missing), DeviceError, says({"to_async: ", name}));
  BOOST_CHECK_EXCEPTION(Tensor(t).move_to(missing), DeviceError, says({"move_to: ", name}));
  BOOST_CHECK_EXCEPTION(missing.synchronize(), DeviceError, says({"Device::synchronize: ", name}));
  BOOST_CHECK_EXCEPTION(missing.name(), DeviceError, says({"Device::name: ", name}));
  BOOST_CHECK_EXCEPTION(Tensor::zeros({2}, DType::kFloat32, missing), DeviceError, says({name}));
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

BOOST_AUTO_TEST_CASE(sums_in_16_bits_are_rounded_once) {
  for (const DType low : {DType::kBFloat16, DType::kFloat16}) {
    Tensor sum = vector_of({1, 256, 1024}).to(low);
    sum.accumulate(vector_of({0.25, 3, 1024}).to(low));
    // 259 is half way between two numbers of bf16, which has 8 bits, and goes to the even one.
    check_equal(sum, {1.25, low == DType::kBFloat16 ? 260.0 : 259.0, 2048});
  }
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

BOOST_AUTO_TEST_CASE(views_that_overlap) {
  constexpr std::int64_t kRows = 300'000;  // several blocks
  for (const std::int64_t shift : {0, 1, 1000}) {
    for (const bool up : {false, true}) {
      const Tensor before = random_values({kRows}, 1);
      const std::int64_t from = up ? 0 : shift, to = up ? shift : 0, count = kRows - shift;
      Tensor copied = before.clone(), added = before.clone();
      Tensor to_copied = copied.slice(to, to + count), to_added = added.slice(to, to + count);
      to_copied.copy_from(copied.slice(from, from + count));
      to_added.accumulate(added.slice(from, from + count));
      Tensor expected_sum = before.slice(to, to + count).clone();
      expected_sum.accumulate(before.slice(from, from + count));
      BOOST_TEST(same_bits(to_copied, before.slice(from, from + count)), shift << ", " << up);
      BOOST_TEST(same_bits(to_added, expected_sum), shift << ", " << up);
    }
  }
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
