#include <algorithm>

#include <fmt/format.h>

#include "tapecache/autograd/tape.h"
#include "tapecache/core/memory_scopes.h"
#include "tapecache/core/random.h"
#include "tapecache/gradcache/encoded_parts.h"
#include "tapecache/gradcache/gradient_transaction.h"
#include "tapecache/gradcache/loss_pass.h"
#include "tapecache/gradcache/step_checks.h"
#include "tapecache/gradcache/step_readings.h"
#include "tapecache/ops/elementwise.h"

namespace tapecache::gradcache {

namespace {

/// The samples of a tower that one direct forward takes: all of them, or the caller's chunks, or reproducible blocks.
std::vector<Chunk> direct_pieces(const Tower& tower, const Chunk& range, const StepOptions& options) {
  if (!tower.own_chunks().empty()) {
    std::vector<Chunk> within;
    for (const Chunk& chunk : cut_as_given(tower.own_chunks()).parts) {
      if (chunk.begin >= range.begin && chunk.end <= range.end) within.push_back(chunk);
    }
    return within;
  }
  return detail::pieces_of(tower, range, options);
}

/// A tower's samples in `range`, recorded on the active tape.
Encoded encode_joined(const Tower& tower, const Chunk& range, const StepOptions& options) {
  const Autocast autocast(detail::encoder_precision(options));
  const std::uint32_t first_call = random_state().key.call;
  std::vector<Encoded> parts;
  for (const Chunk& piece : direct_pieces(tower, range, options)) {
    random_state().key.call = first_call;
    parts.push_back(tower.encode(piece.begin, piece.end));
  }
  return detail::join_parts(tower.name(), std::move(parts));
}

/// Some samples of each tower, recorded on one tape.
struct Recorded {
  Tape tape;
  std::vector<detail::LossInput> inputs;
  std::vector<std::vector<Variable>> outputs;  // of each tower
  std::vector<Variable> auxiliary;
  std::vector<double> auxiliary_seeds;
  detail::StepReadings readings;

  Recorded(std::span<const Tower> towers, std::span<const Chunk> ranges, const StepOptions& options) {
    const Recording recording(tape);
    for (std::size_t t = 0; t < towers.size(); ++t) {
      const Encoded encoded = encode_joined(towers[t], ranges[t], options);
      detail::LossInput& input = inputs.emplace_back();
      input.tower = towers[t].name();
      input.frozen = true;
      std::vector<Variable>& own = outputs.emplace_back();
      for (std::size_t i = 0; i < encoded.outputs.size(); ++i) {
        own.push_back(encoded.outputs[i].value);
        input.names.push_back(detail::full_name(towers[t], encoded.outputs[i], i, encoded.outputs.size()));
        input.representations.push_back(own.back().value());
        input.frozen = input.frozen && !own.back().has_history();
      }
      for (const AuxiliaryLoss& part : encoded.auxiliary) {
        readings.add_auxiliary(auxiliary.size(),
                               {part.name, detail::sum_of_elements(part.values.value()), towers[t].size(), part.weight});
        auxiliary.push_back(part.values);
        auxiliary_seeds.push_back(detail::auxiliary_seed(options, part.weight, towers[t].size()));
      }
    }
  }

  std::vector<Parameter> parameters() const {
    std::vector<Parameter> found = detail::parameters_on(tape);
    const auto add = [&](const Variable& value) { detail::add_distinct(found, detail::parameter_itself(value)); };
    for (const std::vector<Variable>& own : outputs) std::ranges::for_each(own, add);
    std::ranges::for_each(auxiliary, add);
    return found;
  }

  /// Gives the parameters what d loss / d outputs and the auxiliary losses are worth.
  void backward(const detail::LossPass& pass, const StepOptions& options) {
    std::vector<Variable> sources;
    std::vector<Tensor> gradients;
    for (std::size_t i = 0; i < auxiliary.size(); ++i) {
      if (!auxiliary[i].has_history()) continue;
      sources.push_back(auxiliary[i]);
      gradients.push_back(detail::seed_for(auxiliary[i], auxiliary_seeds[i], options));
    }
    for (std::size_t t = 0; t < outputs.size(); ++t) {
      for (std::size_t i = 0; i < outputs[t].size(); ++i) {
        if (!outputs[t][i].has_history() || !pass.caches[t][i].defined()) continue;
        sources.push_back(outputs[t][i]);
        gradients.push_back(pass.caches[t][i]);
      }
    }
    const auto later = no_hooks();  // the transaction runs them
    if (!sources.empty()) inject(tape, sources, gradients);
  }
};

std::vector<Chunk> whole(std::span<const Tower> towers) {
  std::vector<Chunk> ranges;
  for (const Tower& tower : towers) ranges.push_back({0, tower.size()});
  return ranges;
}

/// As `cached_step`, but for towers that the loss leaves out.
StepOptions options_of_loss(const StepOptions& options) {
  StepOptions own = options;
  own.allow_unused = true;
  return own;
}

}  // namespace

StepResult direct_step(std::span<const Tower> towers, const Loss& loss, const StepOptions& options) {
  detail::check_step("direct_step", towers, options);
  detail::check_has_loss("direct_step", loss);
  const PeakMeter meter(options.device);
  GradientTransaction transaction;
  StepResult result;
  {
    Recorded recorded(towers, whole(towers), options);
    transaction.add(recorded.parameters());
    for (const detail::LossInput& input : recorded.inputs) {
      for (const Tensor& r : input.representations) {
        result.representations.push_back(r);
        if (!options.deferred) recorded.readings.add_representations(r);
      }
    }
    const detail::LossPass pass = detail::take_loss("direct_step", recorded.inputs, loss, options_of_loss(options),
                                                    transaction, recorded.readings, result);
    if (result.status == StepStatus::kDone) recorded.backward(pass, options);
  }
  result.chunks = static_cast<std::int64_t>(towers.size());
  for (const Tower& tower : towers) result.largest_chunks.push_back(tower.size());
  result.kept_chunks = result.chunks;
  result.peak_bytes = meter.peak();
  detail::commit_step(transaction, result, options);
  return result;
}

StepResult accumulated_step(std::span<const Tower> towers, const Loss& loss, const StepOptions& options) {
  detail::check_step("accumulated_step", towers, options);
  detail::check_has_loss("accumulated_step", loss);
  if (options.chunk_tokens != 0) {
    throw ValueError("accumulated_step: chunks by tokens would pair other samples; give chunk sizes");
  }
  if (options.deferred) throw ValueError("accumulated_step: cannot be deferred: it adds up the losses of its groups");
  if (options.memory_budget || options.memory_plan) {
    throw ValueError("accumulated_step: takes no memory budget or plan; give chunk sizes");
  }
  const std::vector<Chunks> chunks = detail::cut_towers("accumulated_step", towers, options);
  for (std::size_t i = 1; i < towers.size(); ++i) {
    if (chunks[i].parts.size() != chunks[0].parts.size()) {
      throw ValueError(fmt::format("accumulated_step: tower '{}' has {} chunks, tower '{}' {}, expected equal numbers",
                                   towers[i].name(), chunks[i].parts.size(), towers[0].name(),
                                   chunks[0].parts.size()));
    }
  }
  const PeakMeter meter(options.device);
  GradientTransaction transaction;
  StepResult result;
  const std::uint32_t first_call = random_state().key.call;
  for (std::size_t c = 0; c < chunks[0].parts.size(); ++c) {
    random_state().key.call = first_call;
    std::vector<Chunk> ranges;
    for (const Chunks& tower : chunks) ranges.push_back(tower.parts[c]);
    const double weight = static_cast<double>(ranges[0].size()) / static_cast<double>(towers[0].size());
    const Loss weighted = [&](const Representations& representations) {
      const Variable value = loss(representations);
      detail::check_loss("accumulated_step", value);
      return ops::scale(value, weight);
    };
    Recorded recorded(towers, ranges, options);
    transaction.add(recorded.parameters());
    StepResult part;
    const detail::LossPass pass = detail::take_loss("accumulated_step", recorded.inputs, weighted, options_of_loss(options),
                                                    transaction, recorded.readings, part);
    result.loss += part.loss;
    result.auxiliary.resize(part.auxiliary.size());
    for (std::size_t i = 0; i < part.auxiliary.size(); ++i) {
      part.auxiliary[i].mean += result.auxiliary[i].mean;
      result.auxiliary[i] = part.auxiliary[i];
    }
    if (result.status != StepStatus::kDone) continue;
    result.status = part.status;
    if (part.status == StepStatus::kDone) recorded.backward(pass, options);
    else result.message = fmt::format("in group {}: {}", c, part.message);
  }
  for (const Chunks& tower : chunks) {
    result.chunks += static_cast<std::int64_t>(tower.parts.size());
    std::int64_t& largest = result.largest_chunks.emplace_back(0);
    for (const Chunk& chunk : tower.parts) largest = std::max(largest, chunk.size());
  }
  result.kept_chunks = result.chunks;
  result.peak_bytes = meter.peak();
  detail::commit_step(transaction, result, options);
  return result;
}

}  // namespace tapecache::gradcache
