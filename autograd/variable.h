#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "tapecache/core/forward_context.h"
#include "tapecache/core/tensor.h"

namespace tapecache {

/// A named trainable tensor with its gradient, independent of any tape. It is a handle: copies refer to the same
/// parameter, so tied weights are one Parameter held in two places.
class Parameter {
 public:
  using Hook = std::function<void(Parameter&)>;

  Parameter() = default;
  Parameter(std::string name, Tensor value);

  bool defined() const { return state_ != nullptr; }
  const std::string& name() const { return state().name; }
  void set_name(std::string name) { state().name = std::move(name); }

  const Tensor& value() const { return state().value; }
  /// The value, to be changed in place; keep its shape and dtype.
  Tensor& mutable_value() { return state().value; }
  /// Replaces the value. Throws ShapeError if shape, dtype or device differ from the current one's.
  void assign(const Tensor& value);

  /// Moves value and gradient to another device (`Tensor::move_to`).
  void move_to(Device device);

  /// The sum of all gradients since the last `clear_gradient`; undefined if there was none.
  const Tensor& gradient() const { return state().gradient; }
  Tensor& mutable_gradient() { return state().gradient; }
  void clear_gradient() { state().gradient = Tensor(); }

  /// False if the parameter is frozen: it gets no gradient, and operations on it alone are not recorded.
  bool requires_gradient() const { return state().requires_gradient; }
  void set_requires_gradient(bool on) { state().requires_gradient = on; }

  /// Settings of the parameter's layer that the values and their shape do not show, such as "heads" or "epsilon", by
  /// name. Files keep them beside the values, and loading refuses values that were saved under other settings.
  const std::map<std::string, std::string>& settings() const { return state().settings; }
  void set(const std::string& setting, std::string value) const { state().settings[setting] = std::move(value); }

  /// Calls `hook` in each backward pass, as soon as that pass has added its last contribution to the gradient. Hooks
  /// that are added or cleared within a hook take effect from the next call on. Throws ValueError for an empty
  /// function.
  void add_hook(Hook hook);
  void clear_hooks() { state().hooks.clear(); }
  /// Calls all hooks, unless `no_hooks` is in force.
  void run_hooks();
  /// Suppresses the hooks of all parameters on this thread for as long as the returned object lives, as for a trial
  /// pass whose gradients are thrown away. To suppress them for one tape only, pass `Tape::Hooks::kLeave` to its
  /// backward.
  static ScopedValue<bool> no_hooks();

  /// Whether both handles refer to the same parameter.
  bool operator==(const Parameter& other) const { return state_ == other.state_; }
  /// Identity for use as a map key.
  const void* id() const { return state_.get(); }

 private:
  struct State {
    std::string name;
    Tensor value, gradient;
    bool requires_gradient = true;
    std::vector<Hook> hooks;
    std::map<std::string, std::string> settings;
  };
  State& state() const;

  std::shared_ptr<State> state_;
};

/// A named tensor that belongs to a model's state without being learned, such as a running average: it is saved with
/// the weights and gets no gradient. Copies view the same storage, so it is changed in place.
struct Buffer {
  std::string name;
  Tensor value;
};

/// A forward calls this before it changes a tensor of its own in place, so that a step that fails can restore the
/// tensor.
void before_change(const Tensor& buffer);

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
  /// Whether this stands for a parameter whose value is still the tensor that it was when this was made.
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
