#pragma once

#include "tapecache/core/language.h"

namespace tapecache {

/// A number as a kernel is given it: `value`, or, where `on_device` is not null, what is there, in the memory of the
/// kernel's device, when the kernel runs. So a captured kernel can be replayed with other numbers.
template <class T>
struct KernelNumber {
  T value;
  const T* on_device;

  constexpr KernelNumber(T number = 0, const T* there = nullptr) : value(number), on_device(there) {}
  bool operator==(const KernelNumber&) const = default;

  /// The number as it is now, on the device that holds it.
  constexpr T now() const { return on_device ? *on_device : value; }
};

}  // namespace tapecache
