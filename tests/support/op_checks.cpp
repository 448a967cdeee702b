#include "op_checks.h"

#include <utility>

#include "tapecache/core/allocator.h"
#include "tapecache/core/value_checks.h"
#include "tapecache/ops/elementwise.h"

namespace tapecache::testing {

Poison::Poison(Device device) : device_(device) { allocator(device_).set_poison(true); }

Poison::~Poison() { allocator(device_).set_poison(false); }

Wanted floating_inputs(const OpRow& row) {
  Wanted wanted;
  for (const Input& input : row.inputs) wanted.push_back(is_floating(input.dtype));
  return wanted;
}

Tensor cotangent_of(const Variable& output) {
  return random_tensor(output.shape(), output.dtype(), 99).to(output.device());
}

Outcome run(const Op& op, std::span<const Tensor> inputs, const Wanted& wanted) {
  Tape tape;
  std::vector<Variable> variables;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    variables.push_back(wanted[i] ? tape.leaf(inputs[i]) : Variable(inputs[i]));
  }
  Variable output;
  {
    const Recording recording(tape);
    output = op(variables);
  }
  Outcome outcome{output.value(), std::vector<Tensor>(inputs.size())};
  if (!tape.holds(output)) return outcome;
  const Tensor cotangent = cotangent_of(output);
  tape.backward(std::span(&output, 1), std::span(&cotangent, 1));
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (wanted[i]) outcome.gradients[i] = tape.gradient(variables[i]);
  }
  return outcome;
}

Outcome run(const OpRow& row, std::span<const Tensor> inputs) { return run(row.op, inputs, floating_inputs(row)); }

void check_close(const Tensor& found, const Tensor& expected, double tolerance, const std::string& what) {
  BOOST_REQUIRE_MESSAGE(found.defined(), what << " is missing");
  BOOST_CHECK_MESSAGE(found.shape() == expected.shape(), what << " has shape " << to_string(found.shape())
                                                              << ", expected " << to_string(expected.shape()));
  const double difference = max_difference(found, expected);
  BOOST_CHECK_MESSAGE(difference <= tolerance, what << " differs by " << difference << ", allowed " << tolerance);
}

void check_same_bits(const Outcome& a, const Outcome& b, const std::string& what) {
  BOOST_CHECK_MESSAGE(same_bits(a.output, b.output), "output " << what);
  for (std::size_t i = 0; i < a.gradients.size(); ++i) {
    BOOST_REQUIRE(a.gradients[i].defined() == b.gradients[i].defined());
    if (!a.gradients[i].defined()) continue;
    BOOST_CHECK_MESSAGE(same_bits(a.gradients[i], b.gradients[i]), "gradient " << i << " " << what);
  }
}

namespace {

Tensor plus(const Tensor& a, const Tensor& b) {
  Tensor total = a.clone();
  total.accumulate(b);
  return total;
}

void check_used_twice(const OpRow& row, std::span<const Tensor> inputs, const Outcome& once, double tolerance) {
  const Op twice = [&](std::span<const Variable> x) { return ops::add(row.op(x), row.op(x)); };
  const Outcome outcome = run(twice, inputs, floating_inputs(row));
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (!once.gradients[i].defined()) continue;
    check_close(outcome.gradients[i], plus(once.gradients[i], once.gradients[i]), tolerance,
                "gradient " + std::to_string(i) + " of f(x) + f(x)");
  }
}

void check_parameters_with_gradient(const OpRow& row, std::span<const Tensor> inputs, const Outcome& once,
                                    double tolerance) {
  Tape tape;
  std::vector<Variable> variables;
  for (const Tensor& input : inputs) {
    if (!is_floating(input.dtype())) {
      variables.emplace_back(input);
      continue;
    }
    Parameter parameter("input", input);
    parameter.mutable_gradient() = random_tensor(input.shape(), input.dtype(), 5).to(input.device());
    variables.emplace_back(parameter);
  }
  const Variable output = [&] {
    const Recording recording(tape);
    return row.op(variables);
  }();
  const Tensor cotangent = cotangent_of(output);
  tape.backward(std::span(&output, 1), std::span(&cotangent, 1));
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (!is_floating(inputs[i].dtype())) continue;
    const Tensor before = random_tensor(inputs[i].shape(), inputs[i].dtype(), 5).to(inputs[i].device());
    check_close(variables[i].parameter().gradient(), plus(before, once.gradients[i]), tolerance,
                "gradient of parameter " + std::to_string(i));
  }
}

/// f(x, x): both gradients meet in one leaf.
void check_shared_input(const OpRow& row, std::vector<Tensor> inputs, double tolerance) {
  for (std::size_t i = 1; i < inputs.size(); ++i) {
    if (!is_floating(inputs[0].dtype()) || inputs[i].shape() != inputs[0].shape() ||
        inputs[i].dtype() != inputs[0].dtype()) {
      continue;
    }
    inputs[0] = inputs[i].clone();
    const Outcome separate = run(row, inputs);
    Wanted wanted = floating_inputs(row);
    wanted[i] = false;
    const Op shared = [&](std::span<const Variable> x) {
      std::vector<Variable> variables(x.begin(), x.end());
      variables[i] = variables[0];
      return row.op(variables);
    };
    const Outcome together = run(shared, inputs, wanted);
    check_close(together.gradients[0], plus(separate.gradients[0], separate.gradients[i]), tolerance,
                "gradient of an input given twice");
  }
}

}  // namespace

void check_accumulates(const OpRow& row, const std::vector<Tensor>& inputs, double tolerance) {
  const Outcome once = run(row, inputs);
  check_used_twice(row, inputs, once, tolerance);
  check_parameters_with_gradient(row, inputs, once, tolerance);
  check_shared_input(row, inputs, tolerance);
}

void check_poison(const OpRow& row, const std::vector<Tensor>& inputs) {
  const Outcome poisoned = run(row, inputs);
  Allocator& memory = allocator(inputs[0].device());
  memory.set_poison(false);
  const Outcome plain = run(row, inputs);
  memory.set_poison(true);
  check_same_bits(poisoned, plain, "depends on what its memory held before");
  BOOST_CHECK(first_non_finite(poisoned.output) == -1);
  for (const Tensor& g : poisoned.gradients) BOOST_CHECK(!g.defined() || first_non_finite(g) == -1);
}

}  // namespace tapecache::testing
