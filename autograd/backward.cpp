#include "tapecache/autograd/tape.h"

#include <algorithm>
#include <string>

#include <fmt/format.h>

#include "tapecache/core/error.h"

namespace tapecache {

using detail::Node;

namespace detail {

void add_to_slot(Tensor& slot, const Tensor& gradient, bool is_leaf) {
  if (!slot.defined()) {
    slot = is_leaf || gradient.is_wrapped() ? gradient.clone() : gradient;
    return;
  }
  if (!slot.owns_storage_alone()) slot = slot.clone();
  slot.accumulate(gradient);
}

}  // namespace detail

namespace {

void require_index(std::size_t index, std::size_t count, const char* op, const char* what) {
  if (index < count) return;
  throw TapeError(fmt::format("backward of '{}': {} {} was asked for, but there {} {}", op, what, index,
                              count == 1 ? "is" : "are", count));
}

}  // namespace

const Tensor& Backward::output_gradient(std::size_t output) const {
  require_index(output, static_cast<std::size_t>(node_.outputs), node_.op, "output");
  return tape_.values_[static_cast<std::size_t>(node_.first_output) + output].gradient;
}

const Tensor& Backward::saved(std::size_t index) const {
  require_index(index, node_.saved.size(), node_.op, "saved tensor");
  return node_.saved[index];
}

const Node::Input& Backward::input(std::size_t index) const {
  require_index(index, node_.inputs.size(), node_.op, "input");
  return node_.inputs[index];
}

const Shape& Backward::input_shape(std::size_t input) const { return this->input(input).shape; }

bool Backward::needs(std::size_t input) const {
  const Node::Input& from = this->input(input);
  return from.value >= 0 || from.parameter.defined();
}

Node::Input& Backward::wanted(std::size_t input) {
  if (!needs(input)) {
    throw TapeError(
        fmt::format("backward of '{}': input {} is a constant, whose gradient is not wanted; ask needs({}) first",
                    node_.op, input, input));
  }
  return node_.inputs[input];
}

Tensor& Backward::slot(Node::Input& input) {
  if (input.parameter.defined()) return input.parameter.mutable_gradient();
  return tape_.values_[static_cast<std::size_t>(input.value)].gradient;
}

/// Whether the derivative holds the buffer of this slot, for this input or another one that is the same variable.
bool Backward::was_given(const Node::Input& input) {
  return std::any_of(node_.inputs.begin(), node_.inputs.end(), [&](const Node::Input& other) {
    return other.given && other.value == input.value && other.parameter == input.parameter;
  });
}

void Backward::withdraw() {
  for (Node::Input& input : node_.inputs) {
    if (input.begun) slot(input) = Tensor();
  }
}

Backward::Kind Backward::kind_of(const Node::Input& input) const {
  if (input.parameter.defined()) {
    const Tensor& value = input.parameter.value();
    return {value.shape(), value.dtype(), value.device()};
  }
  const Tape::Value& value = tape_.values_[static_cast<std::size_t>(input.value)];
  return {value.shape, value.dtype, value.device};
}

GradientTarget Backward::gradient(std::size_t input) {
  Node::Input& from = wanted(input);
  Tensor& target = slot(from);
  if (!target.defined()) {
    const Kind kind = kind_of(from);
    target = Tensor::empty(kind.shape, kind.dtype, kind.device);
    from.given = from.begun = true;
    return {target, false};
  }
  // Handles that this node itself was given, for another input that is the same variable, do not count as sharing:
  // its kernel writes through the first and adds through the second.
  if (!target.owns_storage_alone() && !was_given(from)) target = target.clone();
  from.given = true;
  return {target, true};
}

void Backward::pass(std::size_t input, const Tensor& gradient) {
  Node::Input& from = wanted(input);
  const Kind kind = kind_of(from);
  const auto message = [&](const std::string& expected) {
    return fmt::format("backward of '{}': the gradient of input {} is {}, expected {}", node_.op, input,
                       describe(gradient), expected);
  };
  if (!gradient.defined() || gradient.shape() != kind.shape) throw ShapeError(message(to_string(kind.shape)));
  if (gradient.dtype() != kind.dtype) throw DTypeError(message(std::string(name(kind.dtype))));
  if (gradient.device() != kind.device) throw DeviceError(message("one on " + to_string(kind.device)));
  const bool is_leaf = from.parameter.defined() || tape_.values_[static_cast<std::size_t>(from.value)].is_leaf;
  detail::add_to_slot(slot(from), gradient, is_leaf);
}

}  // namespace tapecache
