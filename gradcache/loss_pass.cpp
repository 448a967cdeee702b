#include "tapecache/gradcache/loss_pass.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "tapecache/autograd/modes.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/gradcache/encoded_parts.h"
#include "tapecache/gradcache/non_finite.h"

namespace tapecache::gradcache::detail {

namespace {

std::vector<std::vector<Variable>> make_leaves(Tape& tape, std::span<const LossInput> towers) {
  std::vector<std::vector<Variable>> leaves;
  for (const LossInput& tower : towers) {
    std::vector<Variable>& own = leaves.emplace_back();
    for (const Tensor& r : tower.representations) {
      own.push_back(!tower.frozen && is_floating(r.dtype()) ? tape.leaf(r) : Variable(r));
    }
  }
  return leaves;
}

void check_used(const char* step, std::span<const LossInput> towers, const LossPass& pass) {
  for (std::size_t t = 0; t < towers.size(); ++t) {
    const bool used =
        std::any_of(pass.caches[t].begin(), pass.caches[t].end(), [](const Tensor& c) { return c.defined(); });
    if (!used && !towers[t].frozen) {
      throw ValueError(
          fmt::format("{}: the loss does not use the representations of tower '{}'", step, towers[t].tower));
    }
  }
}

/// The first of the towers' outputs of which `describe(tower, output)` has something to say.
template <class Describe>
std::string first_of_outputs(std::span<const LossInput> towers, Describe describe) {
  for (std::size_t t = 0; t < towers.size(); ++t) {
    for (std::size_t i = 0; i < towers[t].representations.size(); ++i) {
      std::string message = describe(t, i);
      if (!message.empty()) return message;
    }
  }
  return {};
}

}  // namespace

LossPass take_loss(const char* step, std::span<const LossInput> towers, const Loss& loss, const LossOptions& options,
                   GradientTransaction& transaction, StepReadings& readings, StepResult& result) {
  Tape tape;
  const std::vector<std::vector<Variable>> leaves = make_leaves(tape, towers);
  Representations given;
  for (std::size_t t = 0; t < towers.size(); ++t) {
    for (std::size_t i = 0; i < leaves[t].size(); ++i) given.add(towers[t].names[i], leaves[t][i]);
  }
  Variable value;
  {
    const Recording recording(tape);
    const Autocast of_the_encoders_alone(DType::kFloat32);
    value = loss(given);
  }
  check_loss(step, value);
  LossPass pass;
  transaction.add(parameters_on(tape));
  transaction.add(parameter_itself(value));
  if (transaction.empty()) {
    throw ValueError(
        fmt::format("{}: neither an encoder nor the loss reads a parameter that is not frozen: the step would train "
                    "nothing",
                    step));
  }
  if (value.has_history()) {
    const Tensor seed = seed_for(value, 1, options.scale);
    tape.backward(std::span(&value, 1), std::span(&seed, 1), Tape::Hooks::kLeave);  // the transaction runs them
  }
  for (const std::vector<Variable>& own : leaves) {
    std::vector<Tensor>& caches = pass.caches.emplace_back();
    for (const Variable& leaf : own) caches.push_back(tape.holds(leaf) ? tape.gradient(leaf) : Tensor());
  }
  readings.set_loss(value.value());
  if (options.deferred) {
    result.loss = readings.total_loss();
    if (!options.allow_unused) check_used(step, towers, pass);
    return pass;
  }
  readings.set_caches(pass.caches);
  const double not_finite = readings.read(result);
  const double total = result.loss.item();
  result.non_finite = not_finite + (std::isfinite(total) ? 0 : 1);
  if (!std::isfinite(total)) {
    result.status = StepStatus::kNonFiniteLoss;
    result.message = non_finite_loss(total) + first_of_outputs(towers, [&](std::size_t t, std::size_t i) {
                       return non_finite_cause(towers[t].names[i], towers[t].representations[i], towers[t].chunks);
                     });
    return pass;
  }
  if (!options.allow_unused) check_used(step, towers, pass);
  if (not_finite == 0) return pass;
  result.status = StepStatus::kNonFiniteCache;
  result.message = first_of_outputs(towers, [&](std::size_t t, std::size_t i) -> std::string {
    const std::string place = non_finite_place(pass.caches[t][i], towers[t].chunks);
    if (place.empty()) return {};
    return fmt::format("the gradient of the loss with respect to tower '{}' is {}", towers[t].names[i], place);
  });
  return pass;
}

}  // namespace tapecache::gradcache::detail
