#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "tapecache/autograd/modes.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/gradcache/step.h"

#pragma GCC visibility push(hidden)

/// What the ways to take a step have in common. Private to gradcache.
namespace tapecache::gradcache::detail {

/// Throws ValueError for no towers, an empty one unless other ranks may have samples, two of one name, a reproducible
/// block below 0, and what check_scale does.
void check_step(const char* step, std::span<const Tower> towers, std::int64_t reproducible_block, const Number& scale,
                bool may_be_empty = false);
/// Throws ValueError where two towers have one name.
void check_names(const char* step, std::vector<std::string> names);
/// Throws ValueError for a scale that the host knows and that is not finite.
void check_scale(const char* step, const Number& scale);
/// Throws ValueError for a precision that encoders cannot be run in.
void check_precision(const char* step, DType autocast);
/// Throws ValueError for a loss that is an empty function.
void check_has_loss(const char* step, const Loss& loss);
/// Throws ValueError for a deferred step of several ranks.
void check_not_deferred(const char* step, bool deferred, bool several);
/// Throws ValueError for a budget of nothing.
void check_budget(const char* step, const MemoryBudget& budget);
/// Throws ShapeError where the loss is no scalar.
void check_loss(const char* step, const Variable& loss);

/// Adds those that are not there yet.
void add_distinct(std::vector<Parameter>& into, std::span<const Parameter> parameters);
/// Every unfrozen parameter that a recorded operation read.
std::vector<Parameter> parameters_on(const Tape& tape);

/// What chunk sizes are multiples of: the reproducible block, or 1.
inline std::int64_t chunk_unit(std::int64_t reproducible_block) {
  return std::max<std::int64_t>(1, reproducible_block);
}

/// The precision that is asked of encoders, or the surrounding one where none is.
inline DType encoder_precision(DType autocast) { return autocast == DType::kFloat32 ? Autocast::current() : autocast; }

/// A cotangent of `value`, times the scale, for an output.
Tensor seed_for(const Variable& output, double value, const Number& scale);

}  // namespace tapecache::gradcache::detail

#pragma GCC visibility pop
