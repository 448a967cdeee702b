#include "tapecache/autograd/variable.h"

#include <utility>

#include <fmt/format.h>

#include "tapecache/autograd/autograd_context.h"

namespace tapecache {

ScopedValue<bool> Parameter::no_hooks() { return ScopedValue<bool>(detail::autograd_context.hooks, false); }

Parameter::Parameter(std::string name, Tensor value) : state_(std::make_shared<State>()) {
  if (!value.defined() || !is_floating(value.dtype())) {
    throw DTypeError(fmt::format("parameter '{}': value is {}, expected a floating type", name, describe(value)));
  }
  state_->name = std::move(name);
  state_->value = std::move(value);
}

void Parameter::assign(const Tensor& value) {
  const Tensor& own = state().value;
  if (!value.defined() || value.shape() != own.shape() || value.dtype() != own.dtype() ||
      value.device() != own.device()) {
    throw ShapeError(
        fmt::format("parameter '{}': new value is {}, expected {}", name(), describe(value), describe(own)));
  }
  state().value.copy_from(value);
}

void Parameter::move_to(Device device) {
  const Device before = state().value.device();
  state().value.move_to(device);
  try {
    if (state().gradient.defined()) state().gradient.move_to(device);
  } catch (...) {
    state().value.move_to(before);
    throw;
  }
}

void Parameter::add_hook(Hook hook) {
  if (!hook) throw ValueError(fmt::format("parameter '{}': the hook is an empty function", name()));
  state().hooks.push_back(std::move(hook));
}

void Parameter::run_hooks() {
  if (!detail::autograd_context.hooks) return;
  const std::vector<Hook> hooks = state().hooks;  // a copy, as they may add and clear hooks
  for (const Hook& hook : hooks) hook(*this);
}

Parameter::State& Parameter::state() const {
  if (!state_) throw Error("parameter: used before it was given a value");
  return *state_;
}

}  // namespace tapecache
