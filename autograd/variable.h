#pragma once

#include <cstdint>

#include "tapecache/autograd/parameter.h"
#include "tapecache/core/tensor.h"

namespace tapecache {

/// A tensor plus its place on a tape, or a constant. Cheap to copy.
class Variable {
 public:
  Variable() = default;
  /// A constant.
  Variable(Tensor value) : value_(std::move(value)) {}
  /// A parameter's present value.
  Variable(const Parameter& parameter) : value_(parameter.value()), parameter_(parameter) {}

  bool defined() const { return value_.defined(); }
  const Tensor& value() const { return value_; }
  const Shape& shape() const { return value_.shape(); }
  int rank() const { return value_.rank(); }
  std::int64_t size(int axis) const { return value_.size(axis); }
  std::int64_t numel() const { return value_.numel(); }
  DType dtype() const { return value_.dtype(); }
  Device device() const { return value_.device(); }

  /// The parameter this stands for; undefined for anything else.
  const Parameter& parameter() const { return parameter_; }
  /// Whether it is a parameter whose value is still the one that it had when this was made, and no other tensor.
  bool is_present_value() const {
    if (!parameter_.defined()) return false;
    const Tensor& now = parameter_.value();
    return value_.shares_storage(now) && value_.offset() == now.offset() && value_.shape() == now.shape();
  }
  /// Whether a backward pass can start here or pass through: it lies on a tape, or is an unfrozen parameter.
  bool has_history() const { return tape_ != 0 || (parameter_.defined() && parameter_.requires_gradient()); }

 private:
  friend class Tape;
  Tensor value_;
  Parameter parameter_;
  std::uint64_t tape_ = 0;  // identity of the tape; 0 for a constant
  std::int64_t id_ = -1;    // number of the value on that tape
};

/// The value without its history: a constant that shares the elements.
inline Variable detach(const Variable& variable) { return Variable(variable.value()); }

}  // namespace tapecache
