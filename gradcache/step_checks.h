#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "tapecache/autograd/autocast.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/gradcache/chunks.h"
#include "tapecache/gradcache/step.h"

#pragma GCC visibility push(hidden)

/// What the ways to take a step have in common. Private to gradcache.
namespace tapecache::gradcache::detail {

/// What the next two throw, and ValueError for no towers, an empty one, a reproducible step's block below 1, a budget of
/// nothing, a plan that keeps fewer than 0 chunks.
void check_step(const char* step, std::span<const Tower> towers, const StepOptions& options);
/// Throws ValueError where two towers have one name.
void check_names(const char* step, std::vector<std::string> names);
/// Throws ValueError for a scale that is not finite, ShapeError for a late one of another kind.
void check_scales(const char* step, const StepOptions& options);
/// Throws ValueError for a loss that is an empty function.
void check_has_loss(const char* step, const Loss& loss);

/// The cuts of every tower, by the options and, where it is not 0, by `sizes`. Throws ValueError for sizes that are
/// missing, too many, below 1, or no multiple of the reproducible block.
std::vector<Chunks> cut_towers(const char* step, std::span<const Tower> towers, const StepOptions& options);

/// Throws ShapeError where the loss is no scalar.
void check_loss(const char* step, const Variable& loss);

/// Adds those that are not there yet.
void add_distinct(std::vector<Parameter>& into, std::span<const Parameter> parameters);
/// Every unfrozen parameter that a recorded operation read.
std::vector<Parameter> parameters_on(const Tape& tape);

/// What chunk sizes are multiples of: the reproducible block, or 1.
inline std::int64_t chunk_unit(const StepOptions& options) {
  return options.reproducible ? options.reproducible_block : 1;
}

/// The ranges of a chunk that are forwarded together: the whole of it, or reproducible blocks.
std::vector<Chunk> pieces_of(const Tower& tower, const Chunk& chunk, const StepOptions& options);

/// The precision that the options ask of encoders, or the surrounding one where they ask for none.
inline DType encoder_precision(const StepOptions& options) {
  return options.autocast == DType::kFloat32 ? autocast_dtype() : options.autocast;
}

/// "image", or "image.tokens".
std::string full_name(const Tower& tower, const Output& output, std::size_t index, std::size_t outputs);

/// A cotangent of `value`, times the late scale, for an output.
Tensor seed_for(const Variable& output, double value, const StepOptions& options);

/// The cotangent of each sample's auxiliary loss.
inline double auxiliary_seed(const StepOptions& options, double weight, std::int64_t samples) {
  return options.scale * (weight / static_cast<double>(samples));
}

}  // namespace tapecache::gradcache::detail

#pragma GCC visibility pop
