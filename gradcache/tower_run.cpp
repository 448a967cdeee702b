#include "tapecache/gradcache/tower_run.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "tapecache/autograd/parameters_read.h"
#include "tapecache/core/allocator.h"
#include "tapecache/core/forward_context.h"
#include "tapecache/gradcache/encoded_parts.h"
#include "tapecache/gradcache/step_checks.h"

namespace tapecache::gradcache::detail {

namespace {

std::string range_text(const Chunks& chunks, const Chunk& range) {
  if (chunks.order.empty()) return fmt::format("samples [{}, {})", range.begin, range.end);
  return fmt::format("{} samples ordered by length, first {}", range.size(), chunks.samples(range).front());
}

/// Largest |a - b|; NaN where exactly one side is NaN, 0 where both are.
double largest_difference(const Tensor& a, const Tensor& b) {
  const auto x = a.to(DType::kFloat64).to_vector<double>(), y = b.to(DType::kFloat64).to_vector<double>();
  double largest = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double difference = x[i] == y[i] || (std::isnan(x[i]) && std::isnan(y[i])) ? 0 : std::abs(x[i] - y[i]);
    if (!(difference <= largest)) largest = difference;
    if (std::isnan(largest)) break;
  }
  return largest;
}

/// The bytes that packed copies of weights may take. They pay off if a weight is used for several products, and are not
/// made where memory is limited.
std::size_t packed_budget(const Chunks& chunks, const ForwardOptions& options) {
  constexpr std::size_t kMax = std::size_t{32} << 20;
  const bool limited = options.spare_memory || allocator(Device::cpu()).stats().limit != 0;
  return limited || (chunks.parts.size() == 1 && options.reproducible_block == 0) ? 0 : kMax;
}

/// The name of a representation: "image", or "image.tokens".
std::string full_name(const Tower& tower, const Encoded::Output& output, std::size_t index, std::size_t outputs) {
  if (!output.name.empty()) return fmt::format("{}.{}", tower.name(), output.name);
  return outputs == 1 ? tower.name() : fmt::format("{}.{}", tower.name(), index);
}

}  // namespace

TowerRun::TowerRun(const Tower& tower, Chunks chunks, const ForwardOptions& options)
    : tower_(&tower),
      chunks_(std::move(chunks)),
      options_(options),
      kept_(chunks_.parts.size()),
      prefetched_(chunks_.parts.size()),
      operands_(packed_budget(chunks_, options)) {}

/// Cuts a chunk into the pieces that are encoded by one call each: the whole chunk, its reproducible blocks, or the
/// caller's own chunks.
std::vector<Chunk> TowerRun::pieces_of(std::size_t chunk) const {
  const Chunk& whole = chunks_.parts[chunk];
  if (whole.size() == 0) return {whole};
  std::vector<Chunk> pieces;
  if (!tower_->own_chunks().empty()) {
    for (const Chunk& own : cut_as_given(tower_->own_chunks()).parts) {
      if (own.begin >= whole.begin && own.end <= whole.end) pieces.push_back(own);
    }
    return pieces;
  }
  const std::int64_t size = options_.reproducible_block > 0 ? options_.reproducible_block : whole.size();
  for (std::int64_t begin = whole.begin; begin < whole.end; begin += size) {
    pieces.push_back({begin, std::min(begin + size, whole.end)});
  }
  return pieces;
}

Tower::Samples TowerRun::take(const Chunk& range) const {
  return chunks_.order.empty() ? tower_->take(range.begin, range.end) : tower_->take(chunks_.samples(range));
}

/// Copies a chunk's rows of the cache to the devices of the encoder's outputs.
std::vector<Tensor> TowerRun::take_gradients(const Chunk& range) const {
  std::vector<Tensor> gradients;
  for (std::size_t i = 0; i < cache_.size(); ++i) {
    gradients.push_back(cache_[i].defined() ? take_rows(cache_[i], chunks_, range).to_async(outputs_.devices[i])
                                            : Tensor());
  }
  return gradients;
}

void TowerRun::prefetch(std::size_t chunk) {
  Prefetched ahead;
  try {
    for (const Chunk& range : pieces_of(chunk)) {
      if (tower_->uploads() && !kept_[chunk].tape) ahead.samples.push_back(take(range));
      if (options_.offload && !cache_.empty()) ahead.gradients.push_back(take_gradients(range));
    }
    prefetched_[chunk] = std::move(ahead);
  } catch (const OutOfMemory&) {
    // There is no room now: the chunk's own pass will make these copies.
  }
}

bool TowerRun::drop_prefetched() {
  bool dropped = false;
  for (Prefetched& ahead : prefetched_) {
    dropped = dropped || !ahead.samples.empty() || !ahead.gradients.empty();
    ahead = {};
  }
  return dropped;
}

std::vector<Tensor> TowerRun::representations_on_device() const {
  std::vector<Tensor> values;
  for (std::size_t i = 0; i < outputs_.values.size(); ++i)
    values.push_back(outputs_.values[i].to_async(outputs_.devices[i]));
  return values;
}

void TowerRun::begin_backward(std::vector<Tensor> cache, const Number& scale, std::int64_t samples) {
  cache_ = std::move(cache);
  scale_ = scale;
  samples_ = samples;
}

std::vector<Piece> TowerRun::encode(std::size_t chunk, ForwardContext context) {
  const ScopedValue in_force(forward_context(), std::move(context));
  const auto operands = operands_.use();
  std::vector<Piece> pieces;
  std::vector<Tower::Samples> ahead = std::exchange(prefetched_[chunk].samples, {});
  for (const Chunk& range : pieces_of(chunk)) {
    // Each piece runs the same layers on other samples, so its random draws have the same call numbers.
    random_state().key.call = first_->random.key.call;
    const Tower::Samples samples = ahead.empty() ? take(range) : std::move(ahead[pieces.size()]);
    pieces.push_back({range, chunks_.order.empty() ? tower_->encode(range.begin, range.end, samples)
                                                   : tower_->encode(chunks_.samples(range), samples)});
    check_calls(range);
  }
  return pieces;
}

void TowerRun::check_calls(const Chunk& range) {
  const std::uint32_t call = random_state().key.call;
  if (!last_call_) last_call_ = call;
  if (call == *last_call_) return;
  throw ValueError(
      fmt::format("{}: tower '{}' made {} random draws for {}, but {} at its first forward: they "
                  "cannot equal those of the whole batch",
                  options_.step, tower_->name(), call - first_->random.key.call, range_text(chunks_, range), calls()));
}

void TowerRun::forward(std::size_t chunk, bool keep) {
  if (!first_) {
    first_ = forward_context();
    first_->autocast = encoder_precision(options_.autocast);
    input_version_ = tower_->version();
  }
  if (keep) {
    auto tape = std::make_unique<Tape>();
    std::vector<Piece> pieces;
    {
      const Recording recording(*tape);
      pieces = encode(chunk, *first_);
    }
    note_parameters(parameters_on(*tape));
    store(pieces);
    if (!tape->nodes().empty()) kept_[chunk] = {std::move(tape), std::move(pieces)};
  } else {
    const NoRecording no_tape;
    const ParametersRead parameters;
    const std::vector<Piece> pieces = encode(chunk, *first_);
    note_parameters(parameters.distinct());
    store(pieces);
  }
}

void TowerRun::note_parameters(std::span<const Parameter> parameters) {
  for (const Parameter& parameter : parameters) {
    if (std::find(parameters_.begin(), parameters_.end(), parameter) != parameters_.end()) continue;
    parameters_.push_back(parameter);
    parameter_versions_.push_back({parameter.value().weak_storage(), parameter.value().version()});
  }
}

/// Allocates the outputs of the whole batch. They are assigned to the tower only when all of them exist, so that after
/// an OutOfMemory the chunk can be forwarded again.
BatchOutputs TowerRun::make_outputs(const Piece& first) const {
  BatchOutputs made;
  const std::vector<Encoded::Output>& outputs = first.encoded.outputs;
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    const Variable& value = outputs[i].value;
    made.names.push_back(full_name(*tower_, outputs[i], i, outputs.size()));
    made.devices.push_back(value.device());
    const Shape shape = value.shape().with(0, chunks_.size());
    const bool offloaded = options_.offload && !value.device().is_cpu();
    made.values.push_back(offloaded ? Tensor::empty_pinned(shape, value.dtype())
                                    : Tensor::empty(shape, value.dtype(), value.device()));
  }
  for (const AuxiliaryLoss& loss : first.encoded.auxiliary) {
    const Variable& values = loss.values;
    made.auxiliary.push_back(
        {loss.name, Tensor::empty({chunks_.size()}, values.dtype(), values.device()), loss.weight});
  }
  return made;
}

void TowerRun::store(const std::vector<Piece>& pieces) {
  if (outputs_.values.empty()) outputs_ = make_outputs(pieces.front());
  std::vector<Tensor> leaving;
  for (const Piece& piece : pieces) {
    note_parameters(parameters_themselves(piece.encoded));
    const std::vector<Encoded::Output>& outputs = piece.encoded.outputs;
    if (outputs.size() != outputs_.values.size()) {
      throw ShapeError(fmt::format("{}: tower '{}' gave {} outputs for {}, but {} for its first chunk", options_.step,
                                   tower_->name(), outputs.size(), range_text(chunks_, piece.range),
                                   outputs_.values.size()));
    }
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      const Tensor& value = outputs[i].value.value();
      Tensor& batch = outputs_.values[i];
      if (value.shape().without(0) != batch.shape().without(0) || value.dtype() != batch.dtype()) {
        throw ShapeError(fmt::format("{}: tower '{}' gave {} for {}, but its first chunk leads to {}", options_.step,
                                     tower_->name(), describe(value), range_text(chunks_, piece.range),
                                     describe(batch)));
      }
      put_rows(batch, chunks_, piece.range, value);
      if (batch.device() != value.device()) leaving.push_back(value);
    }
    check_auxiliary(tower_->name(), range_text(chunks_, piece.range), piece.encoded.auxiliary, outputs_.auxiliary);
    for (std::size_t i = 0; i < outputs_.auxiliary.size(); ++i) {
      Tensor all = outputs_.auxiliary[i].values.value();
      put_rows(all, chunks_, piece.range, piece.encoded.auxiliary[i].values.value());
    }
  }
  leaving_ = std::move(leaving);
}

void TowerRun::finish_forward() {
  leaving_.clear();
  operands_.clear();
  if (last_call_) random_state().key.call = *last_call_;
}

void TowerRun::finish_backward() {
  cache_.clear();
  drop_prefetched();
  operands_.clear();
}

bool TowerRun::drop(std::size_t chunk) { return std::exchange(kept_[chunk], {}).tape != nullptr; }

std::size_t TowerRun::kept() const {
  return static_cast<std::size_t>(
      std::count_if(kept_.begin(), kept_.end(), [](const Kept& kept) { return kept.tape != nullptr; }));
}

void TowerRun::check_unchanged() const {
  if (tower_->version() != input_version_) {
    throw ValueError(fmt::format("{}: the input of tower '{}' was changed between forward and backward", options_.step,
                                 tower_->name()));
  }
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const Tensor& now = parameters_[i].value();
    const Version& then = parameter_versions_[i];
    if (now.weak_storage().lock() != then.storage.lock() || now.version() != then.number) {
      throw ValueError(fmt::format("{}: parameter '{}' of tower '{}' was changed between forward and backward",
                                   options_.step, parameters_[i].name(), tower_->name()));
    }
  }
}

void TowerRun::check_recompute(const std::vector<Piece>& pieces) const {
  for (const Piece& piece : pieces) {
    const std::vector<Encoded::Output>& outputs = piece.encoded.outputs;
    bool same_shapes = outputs.size() == outputs_.values.size();
    for (std::size_t i = 0; same_shapes && i < outputs.size(); ++i) {
      same_shapes = outputs[i].value.shape().without(0) == outputs_.values[i].shape().without(0) &&
                    outputs[i].value.dtype() == outputs_.values[i].dtype();
    }
    if (!same_shapes) {
      throw ShapeError(fmt::format("{}: the second forward of tower '{}' gave {} for {}, the first led to {}",
                                   options_.step, tower_->name(), describe(outputs.front().value.value()),
                                   range_text(chunks_, piece.range), describe(outputs_.values.front())));
    }
    check_auxiliary(tower_->name(), range_text(chunks_, piece.range) + " again", piece.encoded.auxiliary,
                    outputs_.auxiliary);
    if (!options_.check_recompute) continue;
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      const double difference =
          largest_difference(outputs[i].value.value(), take_rows(outputs_.values[i], chunks_, piece.range));
      if (difference == 0) continue;
      throw ValueError(
          fmt::format("{}: the second forward of tower '{}' differs from the first by up to {} "
                      "for {}: the encoder depends on something that changes between calls",
                      options_.step, outputs_.names[i], difference, range_text(chunks_, piece.range)));
    }
  }
}

void TowerRun::backward(std::size_t chunk, const GradientWatch::Complete& complete) {
  check_unchanged();
  if (kept_[chunk].tape) {
    const Kept kept = std::exchange(kept_[chunk], {});
    inject_cache(*kept.tape, kept.pieces, chunk, complete);
    return;
  }
  Tape tape;
  std::vector<Piece> pieces;
  {
    const Recording recording(tape);
    pieces = encode(chunk, first_->repeated());
  }
  check_recompute(pieces);
  inject_cache(tape, pieces, chunk, complete);
}

void TowerRun::inject_cache(Tape& tape, const std::vector<Piece>& pieces, std::size_t chunk,
                            const GradientWatch::Complete& complete) {
  const auto operands = operands_.use();
  std::vector<Variable> outputs;
  std::vector<Tensor> gradients;
  std::vector<std::vector<Tensor>> ahead = std::exchange(prefetched_[chunk].gradients, {});
  for (std::size_t p = 0; p < pieces.size(); ++p) {
    const Piece& piece = pieces[p];
    const std::vector<Tensor> rows = ahead.empty() ? take_gradients(piece.range) : std::move(ahead[p]);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const Variable& output = piece.encoded.outputs[i].value;
      if (!output.has_history() || !rows[i].defined()) continue;
      outputs.push_back(output);
      gradients.push_back(rows[i]);
    }
    for (const AuxiliaryLoss& loss : piece.encoded.auxiliary) {
      if (!loss.values.has_history()) continue;
      outputs.push_back(loss.values);
      gradients.push_back(seed_for(loss.values, loss.weight / static_cast<double>(samples_), scale_));
    }
  }
  if (outputs.empty()) return;
  std::optional<GradientWatch> watch;
  if (complete) watch.emplace(tape, complete);
  inject(tape, outputs, gradients, Tape::Hooks::kLeave);  // the transaction runs them
}

}  // namespace tapecache::gradcache::detail
