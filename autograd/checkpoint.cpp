#include "tapecache/autograd/function.h"

#include <fmt/format.h>

#include "tapecache/autograd/autograd_context.h"
#include "tapecache/autograd/modes.h"
#include "tapecache/autograd/parameters_read.h"
#include "tapecache/core/error.h"
#include "tapecache/core/forward_context.h"

namespace tapecache {

namespace {

using Function = std::function<std::vector<Variable>(std::span<const Variable>)>;

void recompute(Backward& context, const Function& f, const ForwardContext& first, std::size_t input_count) {
  Tape tape;
  std::vector<Variable> inputs;
  for (std::size_t i = 0; i < input_count; ++i) {
    inputs.push_back(context.needs(i) ? tape.leaf(context.saved(i)) : Variable(context.saved(i)));
  }
  std::vector<Variable> outputs;
  {
    const ScopedValue again(forward_context(), first.repeated());
    const Autocast operands_once(first.autocast);
    const Recording recording(tape);
    outputs = f(inputs);
  }
  std::vector<Variable> seeded;
  std::vector<Tensor> seeds;
  for (std::size_t k = 0; k < outputs.size(); ++k) {
    if (!context.output_gradient(k).defined() || !outputs[k].has_history()) continue;
    seeded.push_back(outputs[k]);
    seeds.push_back(context.output_gradient(k));
  }
  if (seeded.empty()) return;
  tape.backward(seeded, seeds, Tape::Hooks::kLeave);  // the outer pass runs them
  for (std::size_t i = 0; i < input_count; ++i) {
    if (!context.needs(i)) continue;
    if (const Tensor gradient = tape.gradient(inputs[i]); gradient.defined()) context.pass(i, gradient);
  }
}

bool is_on_tape(const Variable& x) { return x.has_history() && !x.parameter().defined(); }

}  // namespace

std::vector<Variable> checkpoint(const Function& f, std::span<const Variable> inputs) {
  if (!f) throw ValueError("checkpoint: the function is empty");
  const ForwardContext first = forward_context();
  std::vector<Tensor> outputs, saved;
  std::vector<Variable> values;
  for (const Variable& input : inputs) {
    saved.push_back(input.value());
    values.push_back(is_on_tape(input) ? Variable(input.value()) : input);
  }
  std::vector<Variable> sources(inputs.begin(), inputs.end());
  {
    // Of what is recorded, history that does not come by way of the inputs would be lost. What the function itself
    // reads under NoRecording is meant to be a constant.
    detail::AutogradContext& context = detail::autograd_context;
    const bool refuses_history = context.refuses_history_at == context.recordings || Tape::active();
    const NoRecording no_tape;
    const ScopedValue refusal(context.refuses_history_at, refuses_history ? context.recordings : -1);
    const ParametersRead parameters;
    for (const Variable& output : f(values)) {
      if (refuses_history && is_on_tape(output)) {
        throw TapeError(
            fmt::format("checkpoint: output {} is on a tape, but no input, which would lose its gradient; give it to "
                        "the checkpoint, or detach it",
                        outputs.size()));
      }
      outputs.push_back(output.value());
      if (output.parameter().defined()) sources.push_back(output);
    }
    for (const Parameter& parameter : parameters.all()) {
      sources.emplace_back(parameter);     // frozen ones too, for a checkpoint around this one
      saved.push_back(parameter.value());  // so that a change before backward is found
    }
  }
  const auto again = [=, count = inputs.size()](Backward& context) { recompute(context, f, first, count); };
  const auto owned = std::make_shared<const decltype(again)>(again);
  std::vector<Variable> results(outputs.begin(), outputs.end());
  Tape::append("checkpoint", results, sources, saved,
               detail::derivative_of([again = owned.get()](Backward& context) { (*again)(context); }), owned);
  return results;
}

}  // namespace tapecache
