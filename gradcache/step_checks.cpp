#include "tapecache/gradcache/step_checks.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "tapecache/core/captured_step.h"
#include "tapecache/ops/elementwise.h"

namespace tapecache::gradcache::detail {

void check_step(const char* step, std::span<const Tower> towers, const StepOptions& options) {
  if (towers.empty()) throw ValueError(fmt::format("{}: no towers, expected at least one", step));
  std::vector<std::string> names;
  for (const Tower& tower : towers) {
    if (tower.size() < 1) throw ValueError(fmt::format("{}: tower '{}' has no samples", step, tower.name()));
    names.push_back(tower.name());
  }
  check_names(step, std::move(names));
  check_scales(step, options);
  if (options.memory_budget && options.memory_budget->bytes == 0) {
    throw ValueError(fmt::format("{}: memory_budget is 0 bytes, expected what the step may use", step));
  }
  if (options.memory_plan && options.memory_plan->kept_chunks < 0) {
    throw ValueError(
        fmt::format("{}: memory_plan keeps {} chunks, expected at least 0", step, options.memory_plan->kept_chunks));
  }
  if (chunk_unit(options) < 1) {
    throw ValueError(fmt::format("{}: reproducible_block is {}, expected at least 1", step, options.reproducible_block));
  }
}

void check_names(const char* step, std::vector<std::string> names) {
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice == names.end()) return;
  throw ValueError(fmt::format("{}: two towers are named '{}', expected a name for each", step, *twice));
}

void check_scales(const char* step, const StepOptions& options) {
  if (options.late_scale.defined() && (options.late_scale.rank() != 0 || options.late_scale.dtype() != DType::kFloat64)) {
    throw ShapeError(fmt::format("{}: late_scale is {}, expected a float64 scalar", step, describe(options.late_scale)));
  }
  if (!std::isfinite(options.scale)) {
    throw ValueError(fmt::format("{}: scale is {}, expected a finite number", step, options.scale));
  }
}

void check_has_loss(const char* step, const Loss& loss) {
  if (!loss) throw ValueError(fmt::format("{}: the loss is an empty function", step));
}

std::vector<Chunks> cut_towers(const char* step, std::span<const Tower> towers, const StepOptions& options) {
  const std::vector<std::int64_t>& sizes = options.memory_plan ? options.memory_plan->chunk_sizes : options.chunk_sizes;
  if (options.chunk_tokens < 0) {
    throw ValueError(fmt::format("{}: chunk_tokens is {}, expected at least 1, or 0 for none", step,
                                 options.chunk_tokens));
  }
  if (options.chunk_tokens > 0 && options.reproducible) {
    throw ValueError(fmt::format("{}: chunks by tokens cannot be reproducible, whose blocks are {} samples in batch "
                                 "order", step, options.reproducible_block));
  }
  std::vector<Chunks> chunks;
  for (std::size_t i = 0; i < towers.size(); ++i) {
    const Tower& tower = towers[i];
    if (!tower.own_chunks().empty()) {
      chunks.push_back(cut_as_given(tower.own_chunks()));
      continue;
    }
    if (options.chunk_tokens > 0 && !tower.lengths().empty()) {
      if (CapturedStep::is_capturing() && (tower.uploads() || options.offload)) {
        throw ValueError(fmt::format("{}: the host gathers the chunks of tower '{}', which are ordered by length, where they are "
                                     "uploaded or off-loaded: a captured step may not; leave out chunk_tokens", step,
                                     tower.name()));
      }
      chunks.push_back(cut_by_cost(tower.lengths(), options.chunk_tokens));
      continue;
    }
    if (options.chunk_tokens > 0 && sizes.empty()) {
      throw ValueError(fmt::format("{}: chunk_tokens cannot cut tower '{}', whose input has no lengths; give chunk_sizes too, "
                                   "or a memory_budget", step, tower.name()));
    }
    if (sizes.size() != 1 && sizes.size() != towers.size()) {
      throw ValueError(fmt::format("{}: {} chunk sizes for {} towers, expected one for all or one each{}", step, sizes.size(),
                                   towers.size(), sizes.empty() ? ", or chunk_tokens, or a memory_budget" : ""));
    }
    const std::int64_t size = sizes[sizes.size() == 1 ? 0 : i];
    if (size < 1) {
      throw ValueError(
          fmt::format("{}: chunk size {} for tower '{}', expected at least 1", step, size, tower.name()));
    }
    if (size % chunk_unit(options) != 0 && size < tower.size()) {
      throw ValueError(
          fmt::format("{}: chunk size {} for tower '{}', expected a multiple of {} for a reproducible step", step, size,
                      tower.name(), options.reproducible_block));
    }
    chunks.push_back(cut_by_count(tower.size(), size));
  }
  return chunks;
}

void check_loss(const char* step, const Variable& loss) {
  if (!loss.defined() || loss.numel() != 1) {
    throw ShapeError(fmt::format("{}: the loss is {}, expected a scalar", step, describe(loss.value())));
  }
}

Tensor seed_for(const Variable& output, double value, const StepOptions& options) {
  const Tensor seed = Tensor::full(output.shape(), value, output.dtype(), output.device());
  if (!options.late_scale.defined()) return seed;
  const NoRecording constants;
  return ops::multiply(Variable(seed), Variable(options.late_scale.to(output.dtype()))).value();
}

void add_distinct(std::vector<Parameter>& into, std::span<const Parameter> parameters) {
  for (const Parameter& parameter : parameters) {
    if (std::find(into.begin(), into.end(), parameter) == into.end()) into.push_back(parameter);
  }
}

std::vector<Parameter> parameters_on(const Tape& tape) {
  std::vector<Parameter> found;
  for (const Node& node : tape.nodes()) {
    for (const Node::Input& input : node.inputs) {
      if (input.parameter.defined()) add_distinct(found, std::span(&input.parameter, 1));
    }
  }
  return found;
}

std::vector<Chunk> pieces_of(const Tower& tower, const Chunk& chunk, const StepOptions& options) {
  if (!options.reproducible || !tower.own_chunks().empty()) return {chunk};
  std::vector<Chunk> pieces;
  const std::int64_t block = chunk_unit(options);
  for (std::int64_t begin = chunk.begin; begin < chunk.end; begin += block) {
    pieces.push_back({begin, std::min(begin + block, chunk.end)});
  }
  return pieces;
}

std::string full_name(const Tower& tower, const Output& output, std::size_t index, std::size_t outputs) {
  if (!output.name.empty()) return fmt::format("{}.{}", tower.name(), output.name);
  return outputs == 1 ? tower.name() : fmt::format("{}.{}", tower.name(), index);
}

}  // namespace tapecache::gradcache::detail
