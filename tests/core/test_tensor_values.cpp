#include "checks.h"

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "tapecache/core/error.h"
#include "tapecache/core/tensor.h"

using namespace tapecache;
using namespace tapecache::testing;

namespace {

void check_made(const Tensor& found, DType dtype, const std::vector<double>& expected) {
  BOOST_CHECK(found.dtype() == dtype);
  check_equal(found, expected);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(tensor_values)

BOOST_AUTO_TEST_CASE(lists_in_braces) {
  check_made(Tensor::from({1.5f, 2.f}, {2}), DType::kFloat32, {1.5, 2});
  check_made(Tensor::from({1.5, 2.0}, {2}), DType::kFloat64, {1.5, 2});
  check_made(Tensor::from({1, 2, 3}, {3}), DType::kInt32, {1, 2, 3});
  check_made(Tensor::from({std::int64_t{7}}, {1}), DType::kInt64, {7});
  check_made(Tensor::from({true, false}, {2}), DType::kBool, {1, 0});
  check_made(Tensor::from({BFloat16(2)}, {}), DType::kBFloat16, {2});
  check_made(Tensor::from<float>({1, 2}, {2}), DType::kFloat32, {1, 2});
  check_made(Tensor::from<bool>({true, false}, {1, 2}), DType::kBool, {1, 0});
  check_made(Tensor::from<std::uint8_t>({1, 255}, {2}), DType::kUInt8, {1, 255});
  check_made(Tensor::from<float>({}, {0}), DType::kFloat32, {});
}

BOOST_AUTO_TEST_CASE(containers) {
  const std::vector<float> floats{1, 2};
  check_made(Tensor::from(floats, {2}), DType::kFloat32, {1, 2});
  check_made(Tensor::from<float>(floats, {2}), DType::kFloat32, {1, 2});
  check_made(Tensor::from(std::vector<std::int64_t>{3}, {1}), DType::kInt64, {3});
  check_made(Tensor::from(std::array{1.0, 2.0}, {2}), DType::kFloat64, {1, 2});
  check_made(Tensor::from(std::array<Float16, 1>{Float16(3)}, {1}), DType::kFloat16, {3});
  const int plain[] = {4, 5};
  check_made(Tensor::from(plain, {2}), DType::kInt32, {4, 5});
  const bool flags[] = {true, false, true};
  check_made(Tensor::from(flags, {3}), DType::kBool, {1, 0, 1});
  const auto list = {6.f, 7.f};
  check_made(Tensor::from(list, {2}), DType::kFloat32, {6, 7});
}

// long and long long are two types, one of which is std::int64_t.
BOOST_AUTO_TEST_CASE(either_type_of_64_bits) {
  const std::vector<long long> wide{3, -(1LL << 40)};
  check_made(Tensor::from(wide, {2}), DType::kInt64, {3, -0x1p40});
  check_made(Tensor::from({5LL, 6LL}, {2}), DType::kInt64, {5, 6});
  check_made(Tensor::from({5L, 6L}, {2}), sizeof(long) == 8 ? DType::kInt64 : DType::kInt32, {5, 6});
  check_made(Tensor::scalar(7LL), DType::kInt64, {7});
  BOOST_CHECK(Tensor::from(wide, {2}).to_vector<long long>() == wide);
  const long long rows = 2;
  BOOST_CHECK(Tensor::zeros({rows, 1}).shape() == (Shape{2, 1}));
}

BOOST_AUTO_TEST_CASE(spans) {
  std::vector<float> floats{1, 2, 3};
  check_made(Tensor::from(std::span<const float>(floats).first(2), {2}), DType::kFloat32, {1, 2});
  check_made(Tensor::from(std::span(floats), {3}), DType::kFloat32, {1, 2, 3});
  check_made(Tensor::from<float>(std::span(floats), {3}), DType::kFloat32, {1, 2, 3});
  check_made(Tensor::from(std::span<float, 3>(floats), {3}), DType::kFloat32, {1, 2, 3});
}

BOOST_AUTO_TEST_CASE(masks) {
  check_made(Tensor::from(std::vector<bool>{true, false, true}, {3, 1}), DType::kBool, {1, 0, 1});
  std::vector<bool> flags(70);
  flags[69] = true;
  const Tensor mask = Tensor::from(flags, {70});
  BOOST_CHECK(mask.data<bool>()[69] && !mask.data<bool>()[68]);
  check_made(Tensor::from(std::vector<bool>{}, {0}), DType::kBool, {});
  BOOST_CHECK_EXCEPTION(Tensor::from(flags, {7}), ShapeError, says({"70 values", "[7]"}));
  BOOST_CHECK_EXCEPTION(Tensor::from({1.f, 2.f}, {3}), ShapeError, says({"2 values", "[3]"}));
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(inferred_sizes)

BOOST_AUTO_TEST_CASE(one_size_may_be_left_out) {
  const Tensor t = Tensor::zeros({2, 3, 4});
  BOOST_CHECK((t.reshape({-1}).shape() == Shape{24}));
  BOOST_CHECK((t.reshape({-1, 4}).shape() == Shape{6, 4}));
  BOOST_CHECK((t.reshape({2, -1, 2}).shape() == Shape{2, 6, 2}));
  BOOST_CHECK((t.reshape({24, -1}).shape() == Shape{24, 1}));
  BOOST_CHECK(t.reshape({-1, 4}).shares_storage(t));
  BOOST_CHECK((Tensor::zeros({}).reshape({-1}).shape() == Shape{1}));
  BOOST_CHECK((Tensor::zeros({1}).reshape({}).shape() == Shape{}));
  BOOST_CHECK((Tensor::zeros({0, 3}).reshape({-1, 5}).shape() == Shape{0, 5}));
}

BOOST_AUTO_TEST_CASE(what_leaves_no_size) {
  const Tensor t = Tensor::zeros({2, 3});
  BOOST_CHECK_EXCEPTION(t.reshape({-1, -1}), ShapeError, says({"reshape:", "more than one -1", "[-1, -1]"}));
  BOOST_CHECK_EXCEPTION(t.reshape({-1, 4}), ShapeError, says({"reshape:", "[2, 3]", "6", "multiple of 4", "[-1, 4]"}));
  BOOST_CHECK_EXCEPTION(t.reshape({0, -1}), ShapeError, says({"reshape:", "[0, -1]", "size 0", "[2, 3]"}));
  BOOST_CHECK_EXCEPTION(Tensor::zeros({0, 3}).reshape({-1, 0}), ShapeError, says({"reshape:", "[-1, 0]", "[0, 3]"}));
  BOOST_CHECK_EXCEPTION(t.reshape({-2, 3}), ShapeError, says({"negative", "[-2, 3]"}));
  BOOST_CHECK_EXCEPTION(t.reshape({-1, -2}), ShapeError, says({"negative", "-2"}));
  BOOST_CHECK_THROW(t.reshape({1, 1, 1, 1, 1, 1, -1}), ShapeError);
  BOOST_CHECK_THROW(t.reshape({-1, std::int64_t{1} << 40, std::int64_t{1} << 40}), ShapeError);
}

BOOST_AUTO_TEST_SUITE_END()
