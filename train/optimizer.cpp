#include "tapecache/train/optimizer.h"

#include <fnmatch.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <set>
#include <span>
#include <utility>

#include <fmt/format.h>

#include "tapecache/autograd/tape.h"
#include "tapecache/core/assignment.h"
#include "tapecache/core/captured_step.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/update.h"

namespace tapecache::train {

namespace {

bool is_rate(double value) { return std::isfinite(value) && value >= 0; }

Tensor zeros_like(const Tensor& t) { return Tensor::zeros(t.shape(), t.dtype(), t.device()); }

bool is_in(const Optimizer::Group& group, const Parameter& p) {
  return ::fnmatch(group.pattern.c_str(), p.name().c_str(), 0) == 0;
}

const Optimizer::Group* group_of(const Parameter& p, const std::vector<Optimizer::Group>& groups) {
  const auto found = std::ranges::find_if(groups, [&](const Optimizer::Group& group) { return is_in(group, p); });
  return found == groups.end() ? nullptr : &*found;
}

/// The numbered block that a parameter belongs to: the part of its name before the first number, and that number.
std::optional<std::pair<std::string, int>> block_of(const std::string& name) {
  for (std::size_t begin = 0, end = 0; begin < name.size(); begin = end + 1) {
    end = std::min(name.find('.', begin), name.size());
    int number = 0;
    const auto [at, error] = std::from_chars(name.data() + begin, name.data() + end, number);
    const bool is_number = error == std::errc() && at == name.data() + end && std::isdigit(name[begin]) != 0;
    if (is_number) return std::pair(name.substr(0, begin), number);
  }
  return std::nullopt;
}

/// Whether a parameter belongs to the embeddings below the blocks: tables of tokens, positions and patches, and their
/// norms.
bool is_embedding(const std::string& name) {
  return name.find("embed") != std::string::npos || name.find("pre_layrnorm") != std::string::npos;
}

/// Runs the step for each group of parameters with an equal factor of the learning rate.
template <class Update, class Run>
void by_rate(const StepNumbers& numbers, std::span<const double> factors, std::vector<Update> updates, const Run& run) {
  std::map<double, std::vector<Update>> parts;
  for (std::size_t i = 0; i < updates.size(); ++i) parts[factors[i]].push_back(std::move(updates[i]));
  std::vector<std::pair<StepNumbers, std::vector<Update>*>>
      steps;  // all numbers are computed before the first step is taken
  for (auto& [factor, part] : parts) {
    StepNumbers own = numbers;
    if (factor != 1 && numbers.learning_rate.is_on_device()) {
      const NoRecording no_tape;
      own.learning_rate = ops::scale(numbers.learning_rate.tensor(), factor).value();
    } else {
      own.learning_rate = factor == 1 ? numbers.learning_rate : Number(numbers.learning_rate.item() * factor);
    }
    steps.emplace_back(std::move(own), &part);
  }
  for (auto& [own, part] : steps) run(own, *part);
}

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

std::vector<double> Optimizer::weight_decays(double weight_decay, const std::function<double(const Parameter&)>& chosen,
                                             const std::vector<Optimizer::Group>& groups) const {
  require(is_rate(weight_decay), "weight_decay", weight_decay, "finite and at least 0");
  for (const Optimizer::Group& group : groups) {
    if (std::ranges::any_of(parameters_, [&](const Parameter& p) { return is_in(group, p); })) continue;
    throw ValueError(fmt::format("{}: group '{}' matches none of {} parameters{}", name_, group.pattern,
                                 parameters_.size(),
                                 parameters_.empty() ? "" : ", as '" + parameters_.front().name() + "'"));
  }
  std::vector<double> decays;
  for (const Parameter& p : parameters_) {
    const Optimizer::Group* const group = group_of(p, groups);
    if (group && group->weight_decay) decays.push_back(*group->weight_decay);
    else if (chosen) decays.push_back(chosen(p));
    else decays.push_back(p.value().rank() >= 2 ? weight_decay : 0.0);
    if (!is_rate(decays.back())) {
      const char* const what = group && group->weight_decay ? "the weight_decay of the group of" : "weight_decay_of";
      throw ValueError(
          fmt::format("{}: {} '{}' is {}, expected finite and at least 0", name_, what, p.name(), decays.back()));
    }
  }
  return decays;
}

std::vector<double> Optimizer::rate_factors(double layer_decay, const std::vector<Optimizer::Group>& groups) const {
  require(layer_decay > 0 && layer_decay <= 1, "layer_decay", layer_decay, "0 < layer_decay <= 1");
  std::map<std::string, int> counts;  // of blocks, by what stands before their number
  int most = 0;
  for (const Parameter& p : parameters_) {
    const auto block = block_of(p.name());
    if (!block) continue;
    int& count = counts[block->first];
    count = std::max(count, block->second + 1);
    most = std::max(most, count);
  }
  // The number of blocks in the tower of a parameter without a block number; its tower is known by the first part of
  // the name.
  const auto count_beside = [&](const std::string& name) {
    const std::string tower = name.substr(0, name.find('.') + 1);
    for (const auto& [before, count] : counts) {
      if (before.starts_with(tower)) return count;
    }
    return most;
  };
  std::vector<double> factors;
  for (const Parameter& p : parameters_) {
    const Optimizer::Group* const group = group_of(p, groups);
    const auto block = block_of(p.name());
    int below = 0;  // how many steps below the top
    if (block) below = counts.at(block->first) - block->second;
    else if (is_embedding(p.name()) && most > 0) below = count_beside(p.name()) + 1;
    factors.push_back(group && group->rate_factor ? *group->rate_factor : std::pow(layer_decay, below));
    if (!is_rate(factors.back())) {
      throw ValueError(fmt::format("{}: the rate_factor of the group of '{}' is {}, expected finite and at least 0",
                                   name_, p.name(), factors.back()));
    }
  }
  return factors;
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
  decays_ = weight_decays(options.weight_decay, options.weight_decay_of, options.groups);
  factors_ = rate_factors(options.layer_decay, options.groups);
  for (const Parameter& p : parameters_) {
    steps_.push_back(Tensor::zeros({}, DType::kInt64));
    m_.push_back(zeros_like(p.value()));
    v_.push_back(zeros_like(p.value()));
  }
}

void AdamW::update(const StepNumbers& numbers) {
  const auto& [learning_rate, gradient_scale, skip_if] = numbers;
  const bool count_on_device = learning_rate.is_on_device() || gradient_scale.is_on_device() || skip_if.is_on_device();
  std::vector<ops::AdamWParameter> updates;
  std::vector<double> factors;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    Parameter& p = parameters_[i];
    if (!p.gradient().defined() || p.value().numel() == 0) continue;
    const Device device = p.value().device();  // the parameter may have moved since the optimiser was made
    m_[i].move_to(device);
    v_[i].move_to(device);
    steps_[i].move_to(count_on_device ? device : Device::cpu());
    updates.push_back({p.gradient(), p.mutable_value(), m_[i], v_[i], decays_[i], steps_[i]});
    factors.push_back(factors_[i]);
  }
  by_rate(numbers, factors, std::move(updates), [&](const StepNumbers& own, std::span<ops::AdamWParameter> part) {
    ops::adamw_update(own, {.beta1 = options_.beta1, .beta2 = options_.beta2, .epsilon = options_.epsilon}, part);
  });
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
  decays_ = weight_decays(options.weight_decay, options.weight_decay_of, options.groups);
  factors_ = rate_factors(options.layer_decay, options.groups);
  for (const Parameter& p : parameters_) velocity_.push_back(zeros_like(p.value()));
}

void Sgd::update(const StepNumbers& numbers) {
  std::vector<ops::SgdParameter> updates;
  std::vector<double> factors;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    Parameter& p = parameters_[i];
    if (!p.gradient().defined()) continue;
    velocity_[i].move_to(p.value().device());  // as in AdamW
    updates.push_back({p.gradient(), p.mutable_value(), velocity_[i], decays_[i]});
    factors.push_back(factors_[i]);
  }
  by_rate(numbers, factors, std::move(updates), [&](const StepNumbers& own, std::span<ops::SgdParameter> part) {
    ops::sgd_update(own, {.momentum = options_.momentum}, part);
  });
}

std::map<std::string, Tensor> Sgd::state() const {
  std::map<std::string, Tensor> state;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    state.emplace("velocity." + parameters_[i].name(), velocity_[i]);
  }
  return state;
}

}  // namespace tapecache::train
