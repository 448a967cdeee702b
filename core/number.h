#pragma once

#include <type_traits>

#include "tapecache/core/error.h"
#include "tapecache/core/tensor.h"

namespace tapecache {

namespace detail {

/// A number as an argument of a kernel: `value` or, if `on_device` is not null, the number that is at that address of
/// the device's memory when the kernel runs. So a captured kernel can be replayed with other numbers.
template <class T>
struct KernelNumber {
  T value;
  const T* on_device;

  constexpr KernelNumber(T number = 0, const T* there = nullptr) : value(number), on_device(there) {}
  bool operator==(const KernelNumber&) const = default;

  /// The number as it is now, on the device that holds it.
  constexpr T now() const { return on_device ? *on_device : value; }
};

}  // namespace detail

/// A double that the host knows, or an f64 scalar in a device's memory, for which the host does not wait. Kernels read
/// the scalar when they run, so that a `CapturedStep` can be replayed with other values; the tensor is kept, not
/// copied. Both forms give the same bits.
class Number {
 public:
  template <class T>
  requires(std::is_arithmetic_v<T> && !std::is_same_v<T, bool>) Number(T value) : value_(static_cast<double>(value)) {}
  /// Throws ShapeError unless the tensor is defined and has one element, DTypeError unless it is of f64.
  Number(const Tensor& scalar);

  /// Whether a tensor holds it, be it one of the CPU.
  bool is_on_device() const { return scalar_.defined(); }
  /// The value. Waits for the device that holds it.
  double item() const { return is_on_device() ? scalar_.item() : value_; }
  /// The scalar that holds it; undefined where the host knows it.
  const Tensor& tensor() const { return scalar_; }
  /// An f64 scalar of that value on `device`: the one that holds it, where it is there.
  Tensor on(Device device) const;

 private:
  double value_ = 0;
  Tensor scalar_;
};

/// The numbers that may differ between steps of an optimiser. Those on a device are on that of the parameters.
struct StepNumbers {
  Number learning_rate;
  Number gradient_scale = 1;  ///< every gradient is multiplied by this first
  /// How many values of the step are NaN or Inf; unless it is 0, the optimiser changes nothing.
  Number skip_if = 0;
};

}  // namespace tapecache
