#include "tapecache/train/optimizer.h"

#include <algorithm>
#include <cmath>
#include <set>

#include <fmt/format.h>

#include "tapecache/core/assignment.h"
#include "tapecache/core/captured_step.h"
#include "tapecache/ops/update.h"

namespace tapecache::train {

namespace {

bool is_rate(double value) { return std::isfinite(value) && value >= 0; }

Tensor zeros_like(const Tensor& t) { return Tensor::zeros(t.shape(), t.dtype(), t.device()); }

}  // namespace

Optimizer::Optimizer(const char* name, std::vector<Parameter> parameters)
    : name_(name), parameters_(std::move(parameters)) {
  std::set<std::string> names;
  for (const Parameter& p : parameters_) {
    if (!names.insert(p.name()).second) {
      throw ValueError(fmt::format("optimizer: two parameters are named '{}'", p.name()));
    }
  }
}

void Optimizer::step(const Number& learning_rate, const Number& gradient_scale, const Number& skip_if) {
  const StepNumbers numbers{learning_rate, gradient_scale, skip_if};
  check_numbers(numbers);
  check_gradients();
  if (skip_if.is_on_device() || skip_if.item() == 0) update(numbers);
}

void Optimizer::require(bool holds, const char* what, double found, const char* expected) const {
  if (!holds) throw ValueError(fmt::format("{}: {} is {}, expected {}", name_, what, found, expected));
}

void Optimizer::check_numbers(const StepNumbers& numbers) const {
  const auto& [rate, scale, skip_if] = numbers;
  if (CapturedStep::is_capturing()) {
    const auto stays = [&](const char* what) {
      throw Error(
          fmt::format("{}: a {} of the host's in a captured step would stay as it is; give one that the device holds",
                      name_, what));
    };
    if (!rate.is_on_device()) stays("learning rate");
    if (!scale.is_on_device() && scale.item() != 1) stays("gradient scale");
    if (!skip_if.is_on_device() && skip_if.item() != 0) stays("skip_if");
  }
  if (!rate.is_on_device()) require(is_rate(rate.item()), "the learning rate", rate.item(), "finite and at least 0");
  if (!scale.is_on_device()) require(std::isfinite(scale.item()), "the gradient scale", scale.item(), "finite");
}

void Optimizer::check_gradients() const {
  for (const Parameter& p : parameters_) {
    const Tensor &gradient = p.gradient(), &value = p.value();
    if (!gradient.defined()) continue;
    if (gradient.shape() != value.shape() || gradient.dtype() != value.dtype() || gradient.device() != value.device()) {
      throw ShapeError(fmt::format("optimizer: the gradient of '{}' is {}, expected {}", p.name(), describe(gradient),
                                   describe(value)));
    }
  }
}

std::vector<double> Optimizer::weight_decays(double weight_decay, const WeightDecayOf& chosen) const {
  require(is_rate(weight_decay), "weight_decay", weight_decay, "finite and at least 0");
  std::vector<double> decays;
  for (const Parameter& p : parameters_) {
    decays.push_back(chosen ? chosen(p) : p.value().rank() >= 2 ? weight_decay : 0.0);
    if (!is_rate(decays.back())) {
      throw ValueError(fmt::format("{}: weight_decay_of '{}' is {}, expected finite and at least 0", name_, p.name(),
                                   decays.back()));
    }
  }
  return decays;
}

void Optimizer::clear_gradients() {
  for (Parameter& parameter : parameters_) parameter.clear_gradient();
}

void Optimizer::check_state(const std::map<std::string, Tensor>& given) const {
  const std::map<std::string, Tensor> own = state();
  for (const auto& [name, tensor] : given) {
    if (!own.contains(name)) throw ValueError(fmt::format("optimizer: unknown state '{}'", name));
  }
  for (const auto& [name, tensor] : own) {
    const auto found = given.find(name);
    if (found == given.end()) throw ValueError(fmt::format("optimizer: state '{}' is missing", name));
    if (found->second.shape() != tensor.shape() || found->second.dtype() != tensor.dtype()) {
      throw ShapeError(
          fmt::format("optimizer: state '{}' is {}, expected {}", name, describe(found->second), describe(tensor)));
    }
  }
}

void Optimizer::load_state(const std::map<std::string, Tensor>& given) {
  check_state(given);
  // All copies to other devices are made before the first tensor is changed.
  std::vector<detail::Assignment> assignments;
  for (const auto& [name, tensor] : state()) assignments.push_back({tensor, given.at(name).to(tensor.device())});
  detail::assign(assignments);
}

AdamW::AdamW(std::vector<Parameter> parameters, const AdamWOptions& options)
    : Optimizer("AdamW", std::move(parameters)), options_(options) {
  require(options.beta1 >= 0 && options.beta1 < 1, "beta1", options.beta1, "0 <= beta1 < 1");
  require(options.beta2 >= 0 && options.beta2 < 1, "beta2", options.beta2, "0 <= beta2 < 1");
  require(std::isfinite(options.epsilon) && options.epsilon > 0, "epsilon", options.epsilon, "finite and above 0");
  if (std::ranges::any_of(parameters_, [](const Parameter& p) { return p.value().dtype() == DType::kFloat32; })) {
    const float rounded = static_cast<float>(options.epsilon);
    require(std::isfinite(rounded) && rounded > 0, "epsilon", options.epsilon, "finite and above 0 in float32");
  }
  decays_ = weight_decays(options.weight_decay, options.weight_decay_of);
  for (const Parameter& p : parameters_) {
    steps_.push_back(Tensor::zeros({}, DType::kInt64));
    m_.push_back(zeros_like(p.value()));
    v_.push_back(zeros_like(p.value()));
  }
}

void AdamW::update(const StepNumbers& numbers) {
  const auto& [learning_rate, gradient_scale, skip_if] = numbers;
  const bool count_there = learning_rate.is_on_device() || gradient_scale.is_on_device() || skip_if.is_on_device();
  std::vector<ops::AdamWParameter> updates;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    Parameter& p = parameters_[i];
    if (!p.gradient().defined() || p.value().numel() == 0) continue;
    const Device device = p.value().device();  // where the parameter was moved after it was given to the optimiser
    m_[i].move_to(device);
    v_[i].move_to(device);
    steps_[i].move_to(count_there ? device : Device::cpu());
    updates.push_back({p.gradient(), p.mutable_value(), m_[i], v_[i], decays_[i], steps_[i]});
  }
  ops::adamw_update(numbers, {.beta1 = options_.beta1, .beta2 = options_.beta2, .epsilon = options_.epsilon}, updates);
}

void AdamW::check_state(const std::map<std::string, Tensor>& given) const {
  Optimizer::check_state(given);
  for (const Parameter& p : parameters_) {
    const std::string name = "steps." + p.name();
    const auto steps = given.at(name).to_vector<std::int64_t>().front();
    if (steps < 0) throw ValueError(fmt::format("AdamW: state '{}' is {}, expected at least 0", name, steps));
  }
}

std::map<std::string, Tensor> AdamW::state() const {
  std::map<std::string, Tensor> state;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    state.emplace("steps." + parameters_[i].name(), steps_[i]);
    state.emplace("m." + parameters_[i].name(), m_[i]);
    state.emplace("v." + parameters_[i].name(), v_[i]);
  }
  return state;
}

Sgd::Sgd(std::vector<Parameter> parameters, const SgdOptions& options)
    : Optimizer("Sgd", std::move(parameters)), options_(options) {
  require(options.momentum >= 0 && options.momentum < 1, "momentum", options.momentum, "0 <= momentum < 1");
  decays_ = weight_decays(options.weight_decay, options.weight_decay_of);
  for (const Parameter& p : parameters_) velocity_.push_back(zeros_like(p.value()));
}

void Sgd::update(const StepNumbers& numbers) {
  std::vector<ops::SgdParameter> updates;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    Parameter& p = parameters_[i];
    if (!p.gradient().defined()) continue;
    velocity_[i].move_to(p.value().device());  // as in AdamW
    updates.push_back({p.gradient(), p.mutable_value(), velocity_[i], decays_[i]});
  }
  ops::sgd_update(numbers, {.momentum = options_.momentum}, updates);
}

std::map<std::string, Tensor> Sgd::state() const {
  std::map<std::string, Tensor> state;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    state.emplace("velocity." + parameters_[i].name(), velocity_[i]);
  }
  return state;
}

}  // namespace tapecache::train
