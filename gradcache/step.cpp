#include "tapecache/gradcache/step.h"

#include <algorithm>

#include <fmt/format.h>

#include "tapecache/autograd/tape.h"
#include "tapecache/core/random.h"

namespace tapecache::gradcache {

namespace {

struct Chunk {
  std::int64_t begin, end;
};

std::vector<Chunk> cut(std::int64_t samples, std::int64_t chunk_size) {
  std::vector<Chunk> chunks;
  for (std::int64_t begin = 0; begin < samples; begin = chunks.back().end) {
    chunks.push_back({begin, begin + std::min(chunk_size, samples - begin)});
  }
  return chunks;
}

void check_towers(const char* step, std::span<const Tower> towers) {
  if (towers.empty()) throw ValueError(fmt::format("{}: no towers, expected at least one", step));
  for (const Tower& tower : towers) {
    if (tower.size() < 1) throw ValueError(fmt::format("{}: tower '{}' has no samples", step, tower.name()));
  }
}

std::vector<std::vector<Chunk>> checked_chunks(const char* step, std::span<const Tower> towers,
                                               const StepOptions& options) {
  check_towers(step, towers);
  const std::size_t count = options.chunk_sizes.size();
  if (count != 1 && count != towers.size()) {
    throw ValueError(fmt::format("{}: {} chunk sizes for {} towers, expected one for all or one each", step, count,
                                 towers.size()));
  }
  std::vector<std::vector<Chunk>> chunks;
  for (std::size_t i = 0; i < towers.size(); ++i) {
    const std::int64_t size = options.chunk_sizes[count == 1 ? 0 : i];
    if (size < 1) {
      throw ValueError(
          fmt::format("{}: chunk size {} for tower '{}', expected at least 1", step, size, towers[i].name()));
    }
    chunks.push_back(cut(towers[i].size(), size));
  }
  return chunks;
}

void check_loss(const char* step, const Variable& loss) {
  if (!loss.defined() || loss.numel() != 1) {
    throw ShapeError(fmt::format("{}: the loss is {}, expected a scalar", step, describe(loss.value())));
  }
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

void run_hooks(std::span<Parameter> parameters) {
  for (Parameter& parameter : parameters) {
    if (parameter.gradient().defined()) parameter.run_hooks();
  }
}

/// One tower's side of a cached step.
struct CachedTower {
  Tensor representations;
  std::vector<Parameter> parameters;
  std::uint32_t first_call = 0;
  Tensor cache;  // d loss / d representations; undefined for a frozen tower
};

/// Step 2 of the design: all chunks without a tape.
CachedTower encode_without_tape(const Tower& tower, std::span<const Chunk> chunks) {
  CachedTower result;
  RandomState& random = random_state();
  result.first_call = random.key.call;
  std::uint32_t last_call = 0;
  const NoRecording no_tape;
  const ParametersRead parameters;
  for (const Chunk& chunk : chunks) {
    // Every chunk makes the same calls: the same layers, on other samples.
    random.key.call = result.first_call;
    const Variable part = tower.encode(chunk.begin, chunk.end);
    if (chunk.begin == 0) {
      last_call = random.key.call;
      result.representations = Tensor::empty(part.shape().with(0, tower.size()), part.dtype(), part.device());
    } else if (random.key.call != last_call) {
      throw ValueError(fmt::format("cached_step: tower '{}' made {} random draws for samples [{}, {}), but {} for its "
                                   "first chunk: they cannot equal those of the whole batch", tower.name(),
                                   random.key.call - result.first_call, chunk.begin, chunk.end,
                                   last_call - result.first_call));
    }
    if (part.shape().without(0) != result.representations.shape().without(0)) {
      throw ShapeError(fmt::format("cached_step: tower '{}' gave {} for samples [{}, {}), but its first chunk leads to {}",
                                   tower.name(), to_string(part.shape()), chunk.begin, chunk.end,
                                   to_string(result.representations.shape())));
    }
    Tensor place = result.representations.slice(chunk.begin, chunk.end);
    place.copy_from(part.value());
  }
  result.parameters = parameters.distinct();
  return result;
}

/// Step 3: the loss over all representations gives each tower's cache, and the loss's own parameters their gradients.
double fill_caches(std::span<const Tower> towers, const Loss& loss, std::span<CachedTower> cached,
                   std::vector<Parameter>& parameters) {
  Tape tape;
  tape.set_run_hooks(false);
  std::vector<Variable> leaves;
  for (const CachedTower& tower : cached) {
    leaves.push_back(tower.parameters.empty() ? Variable(tower.representations) : tape.leaf(tower.representations));
  }
  Variable value;
  {
    const Recording recording(tape);
    value = loss(leaves);
  }
  check_loss("cached_step", value);
  add_distinct(parameters, parameters_on(tape));
  if (!value.has_history()) return value.value().item();
  tape.backward(value);
  for (std::size_t i = 0; i < cached.size(); ++i) {
    if (cached[i].parameters.empty()) continue;
    cached[i].cache = tape.gradient(leaves[i]);
    if (!cached[i].cache.defined()) {
      throw ValueError(fmt::format("cached_step: the loss does not use the representations of tower '{}'",
                                   towers[i].name()));
    }
  }
  return value.value().item();
}

/// Step 4: every chunk again, on a tape of its own, under the random key of its first forward.
void inject_cache(const Tower& tower, std::span<const Chunk> chunks, const CachedTower& cached) {
  const RandomStateGuard guard;
  for (const Chunk& chunk : chunks) {
    random_state().key.call = cached.first_call;
    Tape tape;
    tape.set_run_hooks(false);
    Variable part;
    {
      const Recording recording(tape);
      part = tower.encode(chunk.begin, chunk.end);
    }
    const Tensor gradient = cached.cache.slice(chunk.begin, chunk.end);
    inject(tape, std::span(&part, 1), std::span(&gradient, 1));
  }
}

}  // namespace

StepResult cached_step(std::span<const Tower> towers, const Loss& loss, const StepOptions& options) {
  const auto chunks = checked_chunks("cached_step", towers, options);
  const NoRecording outside_tape;
  StepResult result;
  std::vector<CachedTower> cached;
  for (std::size_t i = 0; i < towers.size(); ++i) {
    cached.push_back(encode_without_tape(towers[i], chunks[i]));
    add_distinct(result.parameters, cached.back().parameters);
    result.representations.push_back(cached.back().representations);
  }
  result.loss = fill_caches(towers, loss, cached, result.parameters);
  for (std::size_t i = 0; i < towers.size(); ++i) {
    if (cached[i].cache.defined()) inject_cache(towers[i], chunks[i], cached[i]);
  }
  run_hooks(result.parameters);
  return result;
}

StepResult direct_step(std::span<const Tower> towers, const Loss& loss) {
  check_towers("direct_step", towers);
  Tape tape;
  StepResult result;
  Variable value;
  {
    const Recording recording(tape);
    std::vector<Variable> representations;
    for (const Tower& tower : towers) representations.push_back(tower.encode(0, tower.size()));
    value = loss(representations);
    for (const Variable& r : representations) result.representations.push_back(r.value());
  }
  check_loss("direct_step", value);
  result.parameters = parameters_on(tape);
  result.loss = value.value().item();
  if (value.has_history()) tape.backward(value);
  return result;
}

StepResult accumulated_step(std::span<const Tower> towers, const Loss& loss, const StepOptions& options) {
  const auto chunks = checked_chunks("accumulated_step", towers, options);
  for (std::size_t i = 1; i < towers.size(); ++i) {
    if (chunks[i].size() != chunks[0].size()) {
      throw ValueError(fmt::format("accumulated_step: tower '{}' has {} chunks, tower '{}' {}, expected equal numbers",
                                   towers[i].name(), chunks[i].size(), towers[0].name(), chunks[0].size()));
    }
  }
  StepResult result;
  const std::uint32_t first_call = random_state().key.call;
  for (std::size_t c = 0; c < chunks[0].size(); ++c) {
    random_state().key.call = first_call;
    Tape tape;
    tape.set_run_hooks(false);
    Variable value;
    {
      const Recording recording(tape);
      std::vector<Variable> representations;
      for (std::size_t i = 0; i < towers.size(); ++i) {
        representations.push_back(towers[i].encode(chunks[i][c].begin, chunks[i][c].end));
      }
      value = loss(representations);
    }
    check_loss("accumulated_step", value);
    add_distinct(result.parameters, parameters_on(tape));
    const double weight = static_cast<double>(chunks[0][c].end - chunks[0][c].begin) / static_cast<double>(towers[0].size());
    result.loss += weight * value.value().item();
    const Tensor seed = Tensor::full(value.shape(), weight, value.dtype(), value.device());
    if (value.has_history()) tape.backward(std::span(&value, 1), std::span(&seed, 1));
  }
  run_hooks(result.parameters);
  return result;
}

}  // namespace tapecache::gradcache
