#pragma once

#include <limits>
#include <type_traits>

#include "tapecache/core/dtype.h"

#pragma GCC visibility push(hidden)

namespace tapecache {

/// Whether T is one of the types of 16 bits, which are computed with in f32.
template <class T>
constexpr bool kLowPrecision = std::is_same_v<T, BFloat16> || std::is_same_v<T, Float16>;

/// The type that elements of T are computed with in.
template <class T>
using ComputedType = std::conditional_t<kLowPrecision<T>, float, T>;

/// Whether it is bf16 or f16.
bool is_low_precision(DType dtype);

/// As `dispatch_floating`, with T = BFloat16 or Float16.
template <class F>
decltype(auto) dispatch_low_precision(const char* op, DType dtype, F&& f) {
  if (dtype == DType::kBFloat16) return f.template operator()<BFloat16>();
  if (dtype == DType::kFloat16) return f.template operator()<Float16>();
  detail::throw_not_computable(op, dtype);
}

/// The same with any of the four.
template <class F>
decltype(auto) dispatch_any_floating(const char* op, DType dtype, F&& f) {
  if (is_low_precision(dtype)) return dispatch_low_precision(op, dtype, f);
  return dispatch_floating(op, dtype, f);
}

/// Calls `f.template operator()<T>()` with the C++ type of any dtype.
template <class F>
void dispatch_any(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kFloat32:
      f.template operator()<float>();
      break;
    case DType::kFloat64:
      f.template operator()<double>();
      break;
    case DType::kBFloat16:
      f.template operator()<BFloat16>();
      break;
    case DType::kFloat16:
      f.template operator()<Float16>();
      break;
    case DType::kInt32:
      f.template operator()<std::int32_t>();
      break;
    case DType::kInt64:
      f.template operator()<std::int64_t>();
      break;
    case DType::kUInt8:
      f.template operator()<std::uint8_t>();
      break;
    case DType::kBool:
      f.template operator()<bool>();
      break;
  }
}

/// A float as an integer: what is before the point; the nearest limit of To beyond its range, and 0 of NaN.
template <class To, class From>
constexpr To saturated(From value) {
  using Limits = std::numeric_limits<To>;
  constexpr From kHalf = static_cast<From>(((Limits::max)() >> 1) + 1);  // a power of two, which From has
  if (value != value) return To{0};
  if (value >= kHalf + kHalf) return (Limits::max)();
  if (value <= static_cast<From>((Limits::min)())) return (Limits::min)();
  return static_cast<To>(value);
}

/// An element in another type, as `Tensor::to` has it.
template <class To, class From>
constexpr To convert_element(From value) {
  if constexpr (kLowPrecision<From>) return convert_element<To>(static_cast<float>(value));
  else if constexpr (kLowPrecision<To>) return To(static_cast<float>(value));
  else if constexpr (std::is_same_v<To, bool>) return value != From{0};
  else if constexpr (std::is_floating_point_v<From> && std::is_integral_v<To>) return saturated<To>(value);
  else return static_cast<To>(value);
}

}  // namespace tapecache

#pragma GCC visibility pop
