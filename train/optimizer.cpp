#include "tapecache/train/optimizer.h"

#include <cmath>
#include <set>

#include <fmt/format.h>

#include "tapecache/core/assignment.h"
#include "tapecache/core/captured_step.h"
#include "tapecache/ops/update.h"

namespace tapecache::train {

namespace {

void require(bool holds, const char* optimizer, const char* what, double found, const char* expected) {
  if (!holds) throw ValueError(fmt::format("{}: {} is {}, expected {}", optimizer, what, found, expected));
}

bool is_decay(double value) { return std::isfinite(value) && value >= 0; }

void require_step_numbers(const char* optimizer, double learning_rate, double gradient_scale) {
  require(std::isfinite(learning_rate) && learning_rate >= 0, optimizer, "the learning rate", learning_rate,
          "finite and at least 0");
  require(std::isfinite(gradient_scale), optimizer, "the gradient scale", gradient_scale, "finite");
}

Tensor zeros_like(const Tensor& t) { return Tensor::zeros(t.shape(), t.dtype(), t.device()); }

}  // namespace

Optimizer::Optimizer(std::vector<Parameter> parameters) : parameters_(std::move(parameters)) {
  std::set<std::string> names;
  for (const Parameter& p : parameters_) {
    if (!names.insert(p.name()).second) {
      throw ValueError(fmt::format("optimizer: two parameters are named '{}'", p.name()));
    }
  }
}

void Optimizer::check_gradients() const {
  for (const Parameter& p : parameters_) {
    const Tensor &gradient = p.gradient(), &value = p.value();
    if (!gradient.defined()) continue;
    if (gradient.shape() != value.shape() || gradient.dtype() != value.dtype() ||
        gradient.device() != value.device()) {
      throw ShapeError(fmt::format("optimizer: the gradient of '{}' is {}, expected {}", p.name(), describe(gradient),
                                   describe(value)));
    }
  }
}

std::vector<double> Optimizer::weight_decays(const char* optimizer, double weight_decay, const WeightDecayOf& chosen) const {
  require(is_decay(weight_decay), optimizer, "weight_decay", weight_decay, "finite and at least 0");
  std::vector<double> decays;
  for (const Parameter& p : parameters_) {
    decays.push_back(chosen ? chosen(p) : p.value().rank() >= 2 ? weight_decay : 0.0);
    if (!is_decay(decays.back())) {
      throw ValueError(fmt::format("{}: weight_decay_of '{}' is {}, expected finite and at least 0", optimizer, p.name(),
                                   decays.back()));
    }
  }
  return decays;
}

void Optimizer::require_host_numbers(const char* optimizer) {
  if (!CapturedStep::is_capturing()) return;
  throw Error(fmt::format("{}: a learning rate of the host's in a captured step would stay as it is; give one that the device "
                          "holds", optimizer));
}

void Optimizer::require_late_numbers(const char* optimizer, const ops::LateNumbers& numbers) {
  if (!numbers.learning_rate.defined()) throw ValueError(fmt::format("{}: the numbers have no learning rate", optimizer));
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
      throw ShapeError(fmt::format("optimizer: state '{}' is {}, expected {}", name, describe(found->second),
                                   describe(tensor)));
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
    : Optimizer(std::move(parameters)), options_(options) {
  require(options.beta1 >= 0 && options.beta1 < 1, "AdamW", "beta1", options.beta1, "0 <= beta1 < 1");
  require(options.beta2 >= 0 && options.beta2 < 1, "AdamW", "beta2", options.beta2, "0 <= beta2 < 1");
  require(std::isfinite(options.epsilon) && options.epsilon > 0, "AdamW", "epsilon", options.epsilon, "finite and above 0");
  decays_ = weight_decays("AdamW", options.weight_decay, options.weight_decay_of);
  for (const Parameter& p : parameters_) {
    steps_.push_back(Tensor::zeros({}, DType::kInt64));
    m_.push_back(zeros_like(p.value()));
    v_.push_back(zeros_like(p.value()));
  }
}

void AdamW::step(double learning_rate, double gradient_scale) {
  require_host_numbers("AdamW");
  require_step_numbers("AdamW", learning_rate, gradient_scale);
  update(learning_rate, gradient_scale, nullptr);
}

void AdamW::step(const ops::LateNumbers& numbers) {
  require_late_numbers("AdamW", numbers);
  update(0, 1, &numbers);
}

void AdamW::update(double learning_rate, double gradient_scale, const ops::LateNumbers* late) {
  check_gradients();
  std::vector<ops::AdamWParameter> updates;
  std::vector<Tensor> counted;  // here, once the update has not thrown
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    Parameter& p = parameters_[i];
    if (!p.gradient().defined() || p.value().numel() == 0) continue;
    m_[i].move_to(p.value().device());  // where the parameter was moved after it was given to the optimiser
    v_[i].move_to(p.value().device());
    ops::AdamWParameter& update = updates.emplace_back(
        ops::AdamWParameter{p.gradient(), p.mutable_value(), m_[i], v_[i], decays_[i]});
    steps_[i].move_to(late ? p.value().device() : Device::cpu());
    if (late) {
      update.steps = steps_[i];
    } else {
      const auto t = static_cast<double>(*steps_[i].data<std::int64_t>()) + 1;
      update.correction1 = 1 - std::pow(options_.beta1, t);
      update.correction2 = 1 - std::pow(options_.beta2, t);
      counted.push_back(steps_[i]);
    }
  }
  ops::adamw_update({.learning_rate = learning_rate,
                     .beta1 = options_.beta1,
                     .beta2 = options_.beta2,
                     .epsilon = options_.epsilon,
                     .gradient_scale = gradient_scale},
                    updates, late ? *late : ops::LateNumbers{});
  for (Tensor& steps : counted) ++*steps.mutable_data<std::int64_t>();
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
    : Optimizer(std::move(parameters)), options_(options) {
  require(options.momentum >= 0 && options.momentum < 1, "Sgd", "momentum", options.momentum, "0 <= momentum < 1");
  decays_ = weight_decays("Sgd", options.weight_decay, options.weight_decay_of);
  for (const Parameter& p : parameters_) velocity_.push_back(zeros_like(p.value()));
}

void Sgd::step(double learning_rate, double gradient_scale) {
  require_host_numbers("Sgd");
  require_step_numbers("Sgd", learning_rate, gradient_scale);
  update(learning_rate, gradient_scale, {});
}

void Sgd::step(const ops::LateNumbers& numbers) {
  require_late_numbers("Sgd", numbers);
  update(0, 1, numbers);
}

void Sgd::update(double learning_rate, double gradient_scale, const ops::LateNumbers& late) {
  check_gradients();
  std::vector<ops::SgdParameter> updates;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    Parameter& p = parameters_[i];
    if (!p.gradient().defined()) continue;
    velocity_[i].move_to(p.value().device());  // as in AdamW
    updates.push_back({p.gradient(), p.mutable_value(), velocity_[i], decays_[i]});
  }
  ops::sgd_update(
      {.learning_rate = learning_rate, .momentum = options_.momentum, .gradient_scale = gradient_scale}, updates,
      late);
}

std::map<std::string, Tensor> Sgd::state() const {
  std::map<std::string, Tensor> state;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    state.emplace("velocity." + parameters_[i].name(), velocity_[i]);
  }
  return state;
}

}  // namespace tapecache::train
