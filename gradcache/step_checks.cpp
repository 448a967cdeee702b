#include "tapecache/gradcache/step_checks.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "tapecache/ops/elementwise.h"

namespace tapecache::gradcache::detail {

void check_step(const char* step, std::span<const Tower> towers, std::int64_t reproducible_block, const Number& scale,
                bool may_be_empty) {
  if (towers.empty()) throw ValueError(fmt::format("{}: no towers, expected at least one", step));
  std::vector<std::string> names;
  for (const Tower& tower : towers) {
    if (tower.size() < 1 && !may_be_empty)
      throw ValueError(fmt::format("{}: tower '{}' has no samples", step, tower.name()));
    names.push_back(tower.name());
  }
  check_names(step, std::move(names));
  check_scale(step, scale);
  if (reproducible_block < 0) {
    throw ValueError(
        fmt::format("{}: reproducible_block is {}, expected at least 1, or 0 for none", step, reproducible_block));
  }
}

void check_names(const char* step, std::vector<std::string> names) {
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice == names.end()) return;
  throw ValueError(fmt::format("{}: two towers are named '{}', expected a name for each", step, *twice));
}

void check_scale(const char* step, const Number& scale) {
  if (scale.is_on_device() || std::isfinite(scale.item())) return;
  throw ValueError(fmt::format("{}: scale is {}, expected a finite number", step, scale.item()));
}

void check_precision(const char* step, DType autocast) {
  if (autocast == DType::kFloat32 || autocast == DType::kBFloat16 || autocast == DType::kFloat16) return;
  throw ValueError(fmt::format("{}: autocast is {}, expected float32, bfloat16 or float16", step, name(autocast)));
}

void check_has_loss(const char* step, const Loss& loss) {
  if (!loss) throw ValueError(fmt::format("{}: the loss is an empty function", step));
}

void check_not_deferred(const char* step, bool deferred, bool several) {
  if (!deferred || !several) return;
  throw ValueError(
      fmt::format("{}: a deferred step cannot have a communicator: each rank must know how it went", step));
}

void check_budget(const char* step, const MemoryBudget& budget) {
  if (budget.bytes > 0) return;
  throw ValueError(fmt::format("{}: a memory budget of 0 bytes, expected what the step may use", step));
}

void check_loss(const char* step, const Variable& loss) {
  if (!loss.defined() || loss.numel() != 1) {
    throw ShapeError(fmt::format("{}: the loss is {}, expected a scalar", step, describe(loss.value())));
  }
}

Tensor seed_for(const Variable& output, double value, const Number& scale) {
  if (!scale.is_on_device()) return Tensor::full(output.shape(), scale.item() * value, output.dtype(), output.device());
  const NoRecording constants;
  const Tensor ones = Tensor::full(output.shape(), 1, output.dtype(), output.device());
  // Rounded once, as on the host.
  const Tensor seed = ops::scale(Variable(scale.tensor()), value).value().to(output.dtype());
  return ops::multiply(Variable(ones), Variable(seed)).value();
}

void add_distinct(std::vector<Parameter>& into, std::span<const Parameter> parameters) {
  for (const Parameter& parameter : parameters) {
    if (std::find(into.begin(), into.end(), parameter) == into.end()) into.push_back(parameter);
  }
}

std::vector<Parameter> parameters_on(const Tape& tape) {
  std::vector<Parameter> found;
  for (const auto& node : tape.nodes()) {
    for (const auto& input : node.inputs) {
      if (input.parameter.defined()) add_distinct(found, std::span(&input.parameter, 1));
    }
  }
  return found;
}

}  // namespace tapecache::gradcache::detail
