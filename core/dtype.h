#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <type_traits>

#include "tapecache/core/error.h"

namespace tapecache {

/// Element types. f32 and f64 are computed in everywhere; bf16 is a storage type; the others are indices, images
/// and masks.
enum class DType : std::uint8_t { kFloat32, kFloat64, kBFloat16, kInt32, kInt64, kUInt8, kBool };

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

/// Bytes of one element.
std::size_t size_of(DType dtype);
/// The name used in messages: "float32", "int64", …
std::string_view name(DType dtype);
/// Whether the type is f32, f64 or bf16.
bool is_floating(DType dtype);

template <class T>
constexpr DType dtype_of() {
  if constexpr (std::is_same_v<T, float>) return DType::kFloat32;
  else if constexpr (std::is_same_v<T, double>) return DType::kFloat64;
  else if constexpr (std::is_same_v<T, BFloat16>) return DType::kBFloat16;
  else if constexpr (std::is_same_v<T, std::int32_t>) return DType::kInt32;
  else if constexpr (std::is_same_v<T, std::int64_t>) return DType::kInt64;
  else if constexpr (std::is_same_v<T, std::uint8_t>) return DType::kUInt8;
  else {
    static_assert(std::is_same_v<T, bool>, "no DType for this C++ type");
    return DType::kBool;
  }
}

namespace detail {
[[noreturn]] void throw_not_computable(const char* op, DType dtype);
}

/// Calls `f.template operator()<T>()` with T = float or double. Throws DTypeError naming `op` for any other type.
template <class F>
decltype(auto) dispatch_floating(const char* op, DType dtype, F&& f) {
  if (dtype == DType::kFloat32) return f.template operator()<float>();
  if (dtype == DType::kFloat64) return f.template operator()<double>();
  detail::throw_not_computable(op, dtype);
}

}  // namespace tapecache
