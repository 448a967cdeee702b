#include "tapecache/autograd/tape.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include "tapecache/autograd/autograd_context.h"
#include "tapecache/autograd/gradient_watch.h"
#include "tapecache/autograd/modes.h"
#include "tapecache/autograd/parameters_read.h"
#include "tapecache/core/op_scope.h"
#include "tapecache/core/thread_context.h"

namespace tapecache {

using detail::Derivative;
using detail::InputList;
using detail::Node;
using detail::SavedList;

namespace {

std::uint64_t next_tape_id() {
  static std::atomic<std::uint64_t> last{0};
  return ++last;
}

}  // namespace

bool detail::will_record(const InputList& inputs) {
  if (!Tape::active()) return false;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i].has_history()) return true;
  }
  return false;
}

Tape::Tape() : id_(next_tape_id()), self_(std::make_shared<Tape*>(this)) {}

Tape::~Tape() {
  *self_ = nullptr;
  if (active() == this) detail::autograd_context.tape = nullptr;
}

Tape* Tape::active() { return detail::autograd_context.tape; }

void Tape::clear() {
  nodes_.clear();
  values_.clear();
  first_use_.clear();
  consumed_ = true;
}

std::int64_t Tape::add_value(const Tensor& tensor, bool is_leaf) {
  values_.push_back({tensor.shape(), tensor.dtype(), tensor.device(), is_leaf, {}});
  return static_cast<std::int64_t>(values_.size()) - 1;
}

Variable Tape::leaf(Tensor value) {
  if (consumed_) throw TapeError("tape: a leaf added after backward; use a fresh tape");
  if (!is_floating(value.dtype())) {
    throw DTypeError(fmt::format("tape: a leaf is {}, expected a floating type", describe(value)));
  }
  Variable v(std::move(value));
  v.tape_ = id_;
  v.id_ = add_value(v.value_, true);
  return v;
}

void Tape::append(const char* op, std::span<Variable> outputs, const InputList& inputs, const SavedList& saved,
                  const Derivative& derivative, std::shared_ptr<const void> owned) {
  detail::require_own_thread(op);
  if (AnomalyMode::enabled()) {
    for (const Variable& output : outputs) detail::check_anomaly(op, "output", output.value_);
  }
  Tape* tape = active();
  if (const detail::AutogradContext& context = detail::autograd_context; !tape && context.parameters) {
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      if (inputs[i].parameter_.defined()) context.parameters->push_back(inputs[i].parameter_);
      if (context.refuses_history_at == context.recordings && inputs[i].tape_ != 0) {
        throw TapeError(
            fmt::format("{}: input {} is on a tape, but no input of the checkpoint around it, which would lose its "
                        "gradient; give it to the checkpoint, or detach it",
                        op, i));
      }
    }
  }
  if (!detail::will_record(inputs)) return;
  if (tape->consumed_) throw TapeError(fmt::format("{}: recorded on a tape whose backward has run", op));
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i].tape_ != 0 && inputs[i].tape_ != tape->id_) {
      throw TapeError(fmt::format("{}: input {} belongs to another tape; detach it to use its value", op, i));
    }
  }

  std::pmr::memory_resource* memory = &tape->memory_;
  Node node{.op = op,
            .inputs = std::pmr::vector<Node::Input>(memory),
            .saved = std::pmr::vector<Tensor>(saved.begin(), saved.end(), memory),
            .saved_versions = std::pmr::vector<std::uint64_t>(memory),
            .first_output = static_cast<std::int64_t>(tape->values_.size()),
            .outputs = static_cast<int>(outputs.size()),
            .derivative = derivative,
            .owned = std::move(owned)};
  node.inputs.reserve(inputs.size());
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const Variable& v = inputs[i];
    Node::Input& input = node.inputs.emplace_back();
    input.shape = v.shape();
    if (v.tape_ != 0) {
      input.value = v.id_;
    } else if (v.parameter_.defined() && v.parameter_.requires_gradient()) {
      input.parameter = v.parameter_;
    }
  }
  node.saved_versions.reserve(saved.size());
  for (const Tensor& t : saved) node.saved_versions.push_back(t.defined() ? t.version() : 0);
  void* numbers = memory->allocate(derivative.bytes, derivative.alignment);
  std::memcpy(numbers, derivative.numbers, derivative.bytes);
  node.derivative.numbers = numbers;
  for (Variable& v : outputs) {
    v.id_ = tape->add_value(v.value_, false);
    v.tape_ = tape->id_;
  }
  for (const Node::Input& input : node.inputs) {
    if (input.parameter.defined()) tape->first_use_.try_emplace(input.parameter.id(), tape->nodes_.size());
  }
  tape->nodes_.push_back(std::move(node));
}

void Tape::backward(const Variable& scalar) {
  if (scalar.numel() != 1) {
    throw ShapeError(fmt::format("backward: the output has shape {}, expected a scalar; give a seed for any other",
                                 to_string(scalar.shape())));
  }
  const Tensor one = Tensor::full(scalar.shape(), 1.0, scalar.dtype(), scalar.device());
  backward(std::span(&scalar, 1), std::span(&one, 1));
}

void Tape::check_seeds(std::span<const Variable> outputs, std::span<const Tensor> seeds) const {
  if (consumed_) throw TapeError("backward: this tape was consumed by an earlier backward; record a fresh one");
  if (outputs.size() != seeds.size() || outputs.empty()) {
    throw ValueError(fmt::format("backward: {} outputs and {} seeds, expected one seed for each of at least one output",
                                 outputs.size(), seeds.size()));
  }
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    const Variable& output = outputs[i];
    const bool is_parameter = output.tape_ == 0 && output.has_history();
    if (!holds(output) && !is_parameter) {
      throw TapeError(
          fmt::format("backward: output {} has no history on this tape; was it computed within a Recording of it, "
                      "from a parameter or a leaf?",
                      i));
    }
    const Tensor& seed = seeds[i];
    if (!seed.defined() || seed.shape() != output.shape() || seed.dtype() != output.dtype() ||
        seed.device() != output.device()) {
      throw ShapeError(
          fmt::format("backward: seed {} is {}, but output {} is {}", i, describe(seed), i, describe(output.value())));
    }
  }
}

/// Checks the gradients that parameters had before this pass: otherwise an op that adds to one would be blamed for a
/// NaN that was there already.
void Tape::check_earlier_gradients() const {
  for (const Node& node : nodes_) {
    for (const Node::Input& input : node.inputs) {
      if (!input.parameter.defined()) continue;
      detail::check_anomaly(input.parameter.name().c_str(), "gradient, before this pass,", input.parameter.gradient());
    }
  }
}

void Tape::seed(const Variable& output, const Tensor& gradient) {
  if (holds(output)) {
    Value& value = values_[static_cast<std::size_t>(output.id_)];
    detail::add_to_slot(value.gradient, gradient, value.is_leaf);
    return;
  }
  Parameter parameter = output.parameter();
  detail::add_to_slot(parameter.mutable_gradient(), gradient, true);
}

void Tape::backward(std::span<const Variable> outputs, std::span<const Tensor> seeds, Hooks hooks) {
  detail::require_own_thread("backward");
  check_seeds(outputs, seeds);
  if (AnomalyMode::enabled()) check_earlier_gradients();
  consumed_ = true;
  const NoRecording no_tape;
  for (std::size_t i = 0; i < outputs.size(); ++i) seed(outputs[i], seeds[i]);
  // The gradient of a parameter that is an output, but no node's input, is complete now.
  std::vector<Parameter> complete;
  for (const Variable& output : outputs) {
    const Parameter& p = output.parameter();
    if (holds(output) || first_use_.contains(p.id())) continue;
    if (std::find(complete.begin(), complete.end(), p) == complete.end()) complete.push_back(p);
  }
  if (hooks == Hooks::kRun) std::ranges::for_each(complete, &Parameter::run_hooks);
  for (std::size_t i = nodes_.size(); i-- > 0;) run(i, hooks);
}

void Tape::run(std::size_t index, Hooks hooks) {
  Node& node = nodes_[index];
  const std::span outputs(&values_[static_cast<std::size_t>(node.first_output)],
                          static_cast<std::size_t>(node.outputs));
  if (std::any_of(outputs.begin(), outputs.end(), [](const Value& value) { return value.gradient.defined(); })) {
    for (std::size_t i = 0; i < node.saved.size(); ++i) {
      if (node.saved[i].defined() && node.saved[i].version() != node.saved_versions[i]) {
        throw TapeError(fmt::format("backward of '{}': saved tensor {} ({}) was changed after the forward", node.op, i,
                                    describe(node.saved[i])));
      }
    }
    const OpScope scope(node.op);
    Backward context(*this, node);
    try {
      node.derivative.call(node.derivative.numbers, context);
    } catch (...) {
      context.withdraw();
      throw;
    }
    for (Value& value : outputs) value.gradient = Tensor();
    if (AnomalyMode::enabled()) {
      for (std::size_t i = 0; i < node.inputs.size(); ++i) {
        if (context.needs(i)) detail::check_anomaly(node.op, "gradient", context.slot(node.inputs[i]));
      }
    }
  }
  for (Node::Input& input : node.inputs) {
    if (!input.parameter.defined()) continue;
    const auto first = first_use_.find(input.parameter.id());
    if (first == first_use_.end() || first->second != index) continue;
    first_use_.erase(first);
    if (hooks == Hooks::kRun && input.parameter.gradient().defined()) input.parameter.run_hooks();
    GradientWatch::tell(*this, input.parameter);
  }
  node.inputs.clear();
  node.saved.clear();
  node.owned.reset();
}

Tensor Tape::gradient(const Variable& leaf) const {
  const auto index = static_cast<std::size_t>(leaf.id_);
  if (!holds(leaf) || index >= values_.size() || !values_[index].is_leaf) {
    throw TapeError("gradient: the variable is no leaf of this tape");
  }
  return values_[index].gradient;
}

Recording::Recording(Tape& tape) : Recording(&tape) {}
Recording::Recording(Tape* tape) : previous_(Tape::active() ? Tape::active()->self_ : nullptr) {
  ++detail::autograd_context.recordings;
  detail::autograd_context.tape = tape;
}
Recording::~Recording() {
  detail::autograd_context.tape = previous_ ? *previous_ : nullptr;
  --detail::autograd_context.recordings;
}

ParametersRead::ParametersRead() : listed_(detail::autograd_context.parameters, &seen_) {}

std::vector<Parameter> ParametersRead::all() const {
  std::vector<Parameter> result;
  for (const Parameter& parameter : seen_) {
    if (std::find(result.begin(), result.end(), parameter) == result.end()) result.push_back(parameter);
  }
  return result;
}

std::vector<Parameter> ParametersRead::distinct() const {
  std::vector<Parameter> result = all();
  std::erase_if(result, [](const Parameter& p) { return !p.requires_gradient(); });
  return result;
}

}  // namespace tapecache
