#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <type_traits>

#include "tapecache/core/error.h"

namespace tapecache {

/// Element types. f32 and f64 are computed in everywhere; bf16 and f16 are what products take and leave under
/// `Autocast`, and storage types elsewhere; the others are indices, images and masks.
enum class DType : std::uint8_t { kFloat32, kFloat64, kBFloat16, kFloat16, kInt32, kInt64, kUInt8, kBool };

/// The upper half of an f32. Conversion rounds to nearest even and keeps NaN a NaN.
struct BFloat16 {
  std::uint16_t bits = 0;

  BFloat16() = default;
  constexpr explicit BFloat16(float value) {
    const auto word = std::bit_cast<std::uint32_t>(value);
    const std::uint32_t rounded = (word + 0x7fff + ((word >> 16) & 1)) >> 16, quiet_nan = (word >> 16) | 0x40;
    bits = static_cast<std::uint16_t>((word & 0x7fffffff) > 0x7f800000 ? quiet_nan : rounded);
  }
  constexpr explicit operator float() const { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }
};

/// IEEE 754's binary16: 5 bits of exponent, 10 after the point. Conversion rounds to nearest even, beyond 65504 to
/// infinity, and keeps NaN a NaN.
struct Float16 {
  std::uint16_t bits = 0;

  Float16() = default;
  constexpr explicit Float16(float value) {
    constexpr std::uint32_t kInfinity = 0x7f80'0000, kTooLarge = 0x4780'0000, kSmallestNormal = 0x3880'0000;
    const auto word = std::bit_cast<std::uint32_t>(value), magnitude = word & 0x7fff'ffff;
    std::uint32_t rounded;
    if (magnitude >= kTooLarge) {
      rounded = magnitude > kInfinity ? 0x7e00 : 0x7c00;
    } else if (magnitude < kSmallestNormal) {  // adding 0.5 leaves the subnormal's digits, rounded, at the lower end
      rounded =
          std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - std::bit_cast<std::uint32_t>(0.5f);
    } else {
      rounded = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
    }
    bits = static_cast<std::uint16_t>(rounded | (word >> 16 & 0x8000));
  }
  constexpr explicit operator float() const {
    // With the smallest exponent's bit at its place in an f32, a subnormal is 2⁻¹⁴ too much.
    const std::uint32_t magnitude = bits & 0x7fffu, shifted = magnitude << 13;
    const std::uint32_t wide = magnitude >= 0x7c00 ? shifted + (224u << 23)
                               : magnitude >= 0x0400
                                   ? shifted + (112u << 23)
                                   : std::bit_cast<std::uint32_t>(std::bit_cast<float>(shifted + (113u << 23)) -
                                                                  std::bit_cast<float>(113u << 23));
    return std::bit_cast<float>(wide | (static_cast<std::uint32_t>(bits & 0x8000) << 16));
  }
};

/// Bytes of one element.
std::size_t size_of(DType dtype);
/// The name used in messages: "float32", "int64", …
std::string_view name(DType dtype);
/// Whether the type is f32, f64, bf16 or f16.
bool is_floating(DType dtype);

template <class T>
constexpr DType dtype_of() {
  if constexpr (std::is_same_v<T, float>) return DType::kFloat32;
  else if constexpr (std::is_same_v<T, double>) return DType::kFloat64;
  else if constexpr (std::is_same_v<T, BFloat16>) return DType::kBFloat16;
  else if constexpr (std::is_same_v<T, Float16>) return DType::kFloat16;
  else if constexpr (std::is_same_v<T, std::int32_t>) return DType::kInt32;
  else if constexpr (std::is_same_v<T, std::int64_t>) return DType::kInt64;
  else if constexpr (std::is_same_v<T, std::uint8_t>) return DType::kUInt8;
  else {
    static_assert(std::is_same_v<T, bool>,
                  "no DType for this C++ type: expected float, double, BFloat16, Float16, bool, "
                  "std::int32_t, std::int64_t (long on Linux, where long long is another type) or "
                  "std::uint8_t");
    return DType::kBool;
  }
}

namespace detail {

/// T, or std::int64_t for the other of the two types, long and long long, that have its 64 bits: what elements of T are
/// copied from and to.
template <class T>
using StoredType =
    std::conditional_t<std::is_same_v<T, long long> || (std::is_same_v<T, long> && sizeof(long) == 8), std::int64_t, T>;

[[noreturn]] void throw_not_computable(const char* op, DType dtype);

}  // namespace detail

/// Calls `f.template operator()<T>()` with T = float or double. Throws DTypeError naming `op` for any other type.
template <class F>
decltype(auto) dispatch_floating(const char* op, DType dtype, F&& f) {
  if (dtype == DType::kFloat32) return f.template operator()<float>();
  if (dtype == DType::kFloat64) return f.template operator()<double>();
  detail::throw_not_computable(op, dtype);
}

}  // namespace tapecache
