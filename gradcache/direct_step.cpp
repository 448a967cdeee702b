#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "tapecache/autograd/tape.h"
#include "tapecache/core/memory_scopes.h"
#include "tapecache/core/random.h"
#include "tapecache/gradcache/encoded_parts.h"
#include "tapecache/gradcache/gradient_transaction.h"
#include "tapecache/gradcache/non_finite.h"
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

/// `weight` times the loss of some samples of each tower, with their shares of its auxiliary parts, on a tape of its own.
struct Recorded {
  Tape tape;
  Representations representations;
  detail::StepReadings readings;
  std::vector<Variable> sources;  // what the loss is made of
  std::vector<double> seeds;      // their cotangents

  Recorded(const char* step, std::span<const Tower> towers, std::span<const Chunk> ranges, const Loss& loss_function,
           const StepOptions& options, double weight = 1) {
    tape.set_run_hooks(false);
    const Recording recording(tape);
    std::size_t auxiliary = 0;
    for (std::size_t t = 0; t < towers.size(); ++t) {
      Encoded encoded = encode_joined(towers[t], ranges[t], options);
      for (std::size_t i = 0; i < encoded.outputs.size(); ++i) {
        representations.add(detail::full_name(towers[t], encoded.outputs[i], i, encoded.outputs.size()),
                            encoded.outputs[i].value);
      }
      for (const AuxiliaryLoss& part : encoded.auxiliary) {
        readings.add_auxiliary(auxiliary++,
                               {part.name, detail::sum_of_elements(part.values.value()), towers[t].size(), part.weight});
        sources.push_back(part.values);
        seeds.push_back(detail::auxiliary_seed(options, part.weight, towers[t].size()));
      }
    }
    const Variable value = loss_function(representations);
    detail::check_loss(step, value);
    sources.push_back(value);
    seeds.push_back(options.scale * weight);
    readings.set_loss(weight == 1 ? value.value() : ops::scale(detach(value), weight).value());
  }

  /// Of the first output that is not finite.
  std::string non_finite_cause() const {
    std::string cause;
    for (std::size_t i = 0; i < representations.size() && cause.empty(); ++i) {
      cause = detail::non_finite_cause(representations.names()[i], representations[i].value());
    }
    return cause;
  }

  std::vector<Parameter> parameters() const {
    std::vector<Parameter> found = detail::parameters_on(tape);
    for (const Variable& source : sources) detail::add_distinct(found, detail::parameter_itself(source));
    return found;
  }

  void backward(const StepOptions& options) {
    std::vector<Variable> outputs;
    std::vector<Tensor> gradients;
    for (std::size_t i = 0; i < sources.size(); ++i) {
      if (!sources[i].has_history()) continue;
      outputs.push_back(sources[i]);
      gradients.push_back(detail::seed_for(sources[i], seeds[i], options));
    }
    if (!outputs.empty()) tape.backward(outputs, gradients);
  }
};

std::vector<Chunk> whole(std::span<const Tower> towers) {
  std::vector<Chunk> ranges;
  for (const Tower& tower : towers) ranges.push_back({0, tower.size()});
  return ranges;
}

void finish(StepResult& result, GradientTransaction& transaction, const StepOptions& options) {
  if (options.deferred || std::isfinite(result.loss)) {
    detail::commit_step(transaction, result, options);
  } else {
    result.status = StepStatus::kNonFiniteLoss;
    if (result.message.empty()) result.message = detail::non_finite_loss(result.loss);
    transaction.keep_random_state();
    transaction.commit();
  }
}

}  // namespace

StepResult direct_step(std::span<const Tower> towers, const Loss& loss, const StepOptions& options) {
  detail::check_step("direct_step", towers, options);
  detail::check_has_loss("direct_step", loss);
  const PeakMeter meter(options.device);
  GradientTransaction transaction;
  StepResult result;
  {
    Recorded recorded("direct_step", towers, whole(towers), loss, options);
    for (const Variable& r : recorded.representations) {
      result.representations.push_back(r.value());
      if (!options.deferred) recorded.readings.add_representations(r.value());
    }
    if (options.deferred) result.device_loss = recorded.readings.total_loss();
    else recorded.readings.read(result);
    if (!std::isfinite(result.loss)) result.message = detail::non_finite_loss(result.loss) + recorded.non_finite_cause();
    if (options.deferred || std::isfinite(result.loss)) {
      transaction.add(recorded.parameters());
      recorded.backward(options);
    }
  }
  result.chunks = static_cast<std::int64_t>(towers.size());
  for (const Tower& tower : towers) result.largest_chunks.push_back(tower.size());
  result.kept_chunks = result.chunks;
  result.peak_bytes = meter.peak();
  finish(result, transaction, options);
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
    Recorded recorded("accumulated_step", towers, ranges, loss, options, weight);
    transaction.add(recorded.parameters());
    StepResult part;
    recorded.readings.read(part);
    result.loss += part.loss;
    result.auxiliary.resize(part.auxiliary.size());
    for (std::size_t i = 0; i < part.auxiliary.size(); ++i) {
      part.auxiliary[i].mean += result.auxiliary[i].mean;
      result.auxiliary[i] = part.auxiliary[i];
    }
    if (!std::isfinite(part.loss) && result.message.empty()) {
      result.message = fmt::format("the loss of group {} is {}", c, part.loss);
    }
    recorded.backward(options);
  }
  for (const Chunks& tower : chunks) {
    result.chunks += static_cast<std::int64_t>(tower.parts.size());
    std::int64_t& largest = result.largest_chunks.emplace_back(0);
    for (const Chunk& chunk : tower.parts) largest = std::max(largest, chunk.size());
  }
  result.kept_chunks = result.chunks;
  result.peak_bytes = meter.peak();
  finish(result, transaction, options);
  return result;
}

}  // namespace tapecache::gradcache
