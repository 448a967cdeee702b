#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tapecache/core/scoped_value.h"
#include "tapecache/core/tensor.h"

namespace tapecache {

/// A named leaf that owns a value and its gradient and outlives tapes. A handle: copies are the same parameter, so
/// tied weights are one Parameter held twice.
class Parameter {
 public:
  using Hook = std::function<void(Parameter&)>;

  Parameter() = default;
  Parameter(std::string name, Tensor value);

  bool defined() const { return state_ != nullptr; }
  const std::string& name() const { return state().name; }
  void set_name(std::string name) { state().name = std::move(name); }

  const Tensor& value() const { return state().value; }
  /// The value for in-place change; shape and dtype stay.
  Tensor& mutable_value() { return state().value; }
  /// Replaces the value. Throws ShapeError where shape, dtype or device differ from the present one.
  void assign(const Tensor& value);

  /// Moves value and gradient to another device (`Tensor::move_to`).
  void move_to(Device device);

  /// Sum of the gradients since the last `clear_gradient`; undefined where there was none.
  const Tensor& gradient() const { return state().gradient; }
  Tensor& mutable_gradient() { return state().gradient; }
  void clear_gradient() { state().gradient = Tensor(); }

  /// False for a frozen parameter: no tape records for its sake and it receives no gradient.
  bool requires_gradient() const { return state().requires_gradient; }
  void set_requires_gradient(bool on) { state().requires_gradient = on; }

  /// What its layer computes with beside the values, and their shape does not tell: as "heads" or "epsilon", by name.
  /// It is written into files beside the values, and values that were saved under another setting are refused.
  const std::map<std::string, std::string>& settings() const { return state().settings; }
  void set(const std::string& setting, std::string value) const { state().settings[setting] = std::move(value); }

  /// Calls `hook` in each backward pass, as soon as that pass has added its last contribution to the gradient. Hooks
  /// that a hook adds or clears count from the next call on. Throws ValueError for an empty one.
  void add_hook(Hook hook);
  void clear_hooks() { state().hooks.clear(); }
  /// Calls them, unless `no_hooks` holds them back.
  void run_hooks();

  /// Whether both are the same parameter.
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

/// Lets no hook of any parameter run on this thread, until the end of what this returns: for passes that are only
/// tried, whatever tapes they use. Where one tape is to leave the hooks to another pass, `Hooks::kLeave` is an argument
/// of its backward.
ScopedValue<bool> no_hooks();

}  // namespace tapecache
