#include "checks.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string_view>
#include <utility>
#include <vector>

#include "all_types.h"
#include "tapecache/core/device.h"
#include "tapecache/core/dtype.h"
#include "tapecache/core/element.h"
#include "tapecache/core/error.h"
#include "tapecache/core/tensor.h"

using namespace tapecache;
using namespace tapecache::testing;

namespace {

std::uint16_t bfloat16_bits(float value) { return BFloat16(value).bits; }
std::uint16_t float16_bits(float value) { return Float16(value).bits; }
float from_bits(std::uint32_t bits) { return std::bit_cast<float>(bits); }

}  // namespace

BOOST_AUTO_TEST_SUITE(types)

BOOST_AUTO_TEST_CASE(names_and_sizes) {
  const std::vector<std::pair<std::string_view, std::size_t>> expected{{"float32", 4}, {"float64", 8}, {"bfloat16", 2},
                                                                       {"float16", 2}, {"int32", 4},   {"int64", 8},
                                                                       {"uint8", 1},   {"bool", 1}};
  for (std::size_t i = 0; i < expected.size(); ++i) {
    BOOST_CHECK_EQUAL(name(kAllTypes[i]), expected[i].first);
    BOOST_CHECK_EQUAL(size_of(kAllTypes[i]), expected[i].second);
    BOOST_CHECK_EQUAL(is_floating(kAllTypes[i]), i < 4);
    BOOST_CHECK_EQUAL(is_low_precision(kAllTypes[i]), i == 2 || i == 3);
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

/// The value of f16 bits, by IEEE 754's definition.
double float16_value(std::uint32_t bits) {
  const int exponent = static_cast<int>(bits >> 10 & 0x1f), fraction = static_cast<int>(bits & 0x3ff);
  const double magnitude = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
  return bits & 0x8000 ? -magnitude : magnitude;
}

BOOST_AUTO_TEST_CASE(float16_has_the_values_of_its_bits) {
  for (std::uint32_t bits = 0; bits <= 0xffff; ++bits) {
    const float value = static_cast<float>(std::bit_cast<Float16>(static_cast<std::uint16_t>(bits)));
    if ((bits & 0x7c00) == 0x7c00) {
      BOOST_REQUIRE((bits & 0x3ff) == 0 ? std::isinf(value) : std::isnan(value));
      BOOST_REQUIRE_EQUAL(std::signbit(value), bits >> 15 == 1);
      continue;
    }
    BOOST_REQUIRE_EQUAL(value, float16_value(bits));
    BOOST_REQUIRE_EQUAL(float16_bits(value), bits);
  }
}

BOOST_AUTO_TEST_CASE(float16_rounds_to_nearest_even) {
  // Between each two neighbours: the middle, and what lies next to it on either side.
  for (std::uint32_t bits = 0; bits < 0x7bff; ++bits) {
    const auto middle = static_cast<float>((float16_value(bits) + float16_value(bits + 1)) / 2);
    BOOST_REQUIRE_EQUAL(float16_bits(middle), bits % 2 == 0 ? bits : bits + 1);
    BOOST_REQUIRE_EQUAL(float16_bits(std::nextafter(middle, 0.0f)), bits);
    BOOST_REQUIRE_EQUAL(float16_bits(std::nextafter(middle, 1e6f)), bits + 1);
    BOOST_REQUIRE_EQUAL(float16_bits(-middle), 0x8000 | float16_bits(middle));
  }
}

BOOST_AUTO_TEST_CASE(float16_at_the_ends_of_its_range) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  BOOST_CHECK_EQUAL(float16_bits(kInfinity), 0x7c00);
  BOOST_CHECK_EQUAL(float16_bits(-kInfinity), 0xfc00);
  BOOST_CHECK_EQUAL(float16_bits(65504), 0x7bff);  // its largest finite number
  BOOST_CHECK_EQUAL(float16_bits(std::nextafter(65520.0f, 0.0f)), 0x7bff);
  BOOST_CHECK_EQUAL(float16_bits(65520), 0x7c00);  // half way to the next, which would be 65536
  BOOST_CHECK_EQUAL(float16_bits(std::numeric_limits<float>::max()), 0x7c00);
  BOOST_CHECK_EQUAL(float16_bits(-0.0f), 0x8000);
  BOOST_CHECK_EQUAL(float16_bits(std::numeric_limits<float>::denorm_min()), 0x0000);
  for (const std::uint32_t bits : {0x7f800001u, 0x7fc00000u, 0x7fffffffu, 0xff800001u, 0xffffffffu}) {
    const Float16 converted(from_bits(bits));
    BOOST_CHECK_MESSAGE(std::isnan(static_cast<float>(converted)), "of bits " << bits);
    BOOST_CHECK_EQUAL(converted.bits >> 15, bits >> 31);
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

BOOST_AUTO_TEST_CASE(floats_beyond_an_integer_type_become_its_limits_and_nan_0) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity(), kNaN = std::numeric_limits<double>::quiet_NaN();
  const Tensor floats = vector_of({kNaN, kInfinity, -kInfinity, 60000, -60000});
  for (const DType from : {DType::kFloat64, DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    const double large = floats.to(from).to(DType::kFloat64).data<double>()[3];
    check_equal(floats.to(from).to(DType::kUInt8), {0, 255, 0, 255, 0});
    check_equal(floats.to(from).to(DType::kInt32), {0, 2147483647, -2147483648.0, large, -large});
    check_equal(floats.to(from).to(DType::kInt64), {0, 0x1p63, -0x1p63, large, -large});
    check_equal(floats.to(from).to(DType::kBool), {1, 1, 1, 1, 1});
  }
  for (const DType from : {DType::kFloat64, DType::kFloat32}) {
    const Tensor limits = vector_of({0x1p31, -0x1p31, 0x1p40, -0x1p40, 0x1p31 - 128, 255.5, -0.5}).to(from);
    check_equal(limits.to(DType::kInt32), {2147483647, -0x1p31, 2147483647, -0x1p31, 0x1p31 - 128, 255, 0});
    const Tensor wide = vector_of({0x1p63, -0x1p63, 1e30, -1e30}).to(from).to(DType::kInt64);
    const std::vector<std::int64_t> found = wide.to_vector<std::int64_t>();
    constexpr std::int64_t kLeast = std::numeric_limits<std::int64_t>::min(),
                           kMax = std::numeric_limits<std::int64_t>::max();
    BOOST_CHECK((found == std::vector<std::int64_t>{kMax, kLeast, kMax, kLeast}));
    check_equal(vector_of({255.5, 256, -0.5, -1, 1e9}).to(from).to(DType::kUInt8), {255, 255, 0, 0, 255});
  }
  check_equal(vector_of({0x1p31 - 0.5, -0x1p31 - 0.5}).to(DType::kInt32), {2147483647, -0x1p31});
  check_equal(Tensor::full({1}, 1e10, DType::kInt32), {2147483647});
}

BOOST_AUTO_TEST_CASE(float64_to_float16) {
  check_equal(vector_of({1.0 / 3, 3.140625, 1e300, 1e-7}).to(DType::kFloat16),
              {0.333251953125, 3.140625, std::numeric_limits<double>::infinity(), 0x1p-23});
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
  BOOST_CHECK_EXCEPTION(Tensor::zeros({3}).to(Device::cuda(99)), DeviceError, says({"to:", "cuda:99"}));
  BOOST_CHECK_EXCEPTION(Tensor::zeros({3}, DType::kFloat32, Device::cuda(99)), DeviceError, says({"cuda:99"}));
  BOOST_CHECK_EXCEPTION(Device::cuda(99).synchronize(), DeviceError, says({"Device::synchronize:", "cuda:99"}));
  BOOST_CHECK_EQUAL(to_string(Device::cpu()), "cpu");
  BOOST_CHECK_EQUAL(to_string(Device::cuda(2)), "cuda:2");
}

BOOST_AUTO_TEST_SUITE_END()
