#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tapecache/core/scoped_value.h"
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

/// Suppresses the hooks of all parameters on this thread for as long as the returned object lives, as for a trial pass
/// whose gradients are thrown away. To suppress them for one tape only, pass `Hooks::kLeave` to its backward.
ScopedValue<bool> no_hooks();

}  // namespace tapecache
