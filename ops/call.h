#pragma once

#include <type_traits>
#include <utility>

#include "tapecache/autograd/tape.h"
#include "tapecache/ops/kernels/table.h"

#pragma GCC visibility push(hidden)

/// The step from tensors to kernels.
namespace tapecache::ops::detail {

inline kernels::Mode mode_of(const GradientTarget& target) {
  return target.accumulate ? kernels::Mode::kAccumulate : kernels::Mode::kWrite;
}

/// What a kernel takes as `Parameter` for this argument: the elements of a tensor or of a gradient's place, null where
/// that is undefined; the mode of a gradient's place; anything else as it is.
template <class Parameter, class Argument>
Parameter kernel_argument(Argument& argument) {
  using Given = std::remove_const_t<Argument>;
  if constexpr (std::is_same_v<Given, Variable>) {
    return argument.defined() ? kernel_argument<Parameter>(argument.value()) : nullptr;
  } else if constexpr (std::is_same_v<Given, GradientTarget> && std::is_same_v<Parameter, kernels::Mode>) {
    return mode_of(argument);
  } else if constexpr (std::is_same_v<Given, GradientTarget>) {
    return kernel_argument<Parameter>(argument.tensor);
  } else if constexpr (std::is_same_v<Given, Tensor>) {
    using Element = std::remove_pointer_t<Parameter>;
    if (!argument.defined()) return nullptr;
    if constexpr (std::is_const_v<Element>) return argument.template data<std::remove_const_t<Element>>();
    else return argument.template mutable_data<Element>();
  } else {
    return static_cast<Parameter>(argument);
  }
}

/// Calls a device's kernel, as &SoftmaxKernels<T>::softmax names it, with tensors for its pointers. A gradient's place
/// stands for its pointer and, once more, for its mode. Throws as kernels::find does, and DTypeError where a tensor has
/// other elements.
template <template <class> class Family, class T, class Result, class... Parameters, class... Arguments>
Result call(const char* op, Device device, Result (*Family<T>::*kernel)(Parameters...), Arguments&&... arguments) {
  static_assert(sizeof...(Parameters) == sizeof...(Arguments));
  return kernels::find(kernel, op, device)(kernel_argument<Parameters>(arguments)...);
}

}  // namespace tapecache::ops::detail

#pragma GCC visibility pop
