#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "tapecache/autograd/variable.h"
#include "tapecache/losses/losses.h"
#include "tapecache/ops/contrastive.h"
#include "tapecache/ops/equal_targets.h"

#pragma GCC visibility push(hidden)

/// What the losses share. Private to losses.
namespace tapecache::losses::detail {

// What these throw names the loss, the argument, what was found and what was expected: ValueError for what is
// undefined, and for numbers; DTypeError and DeviceError for another type or device; ShapeError. All of it is refused
// before tiles, or the lack of them, make a difference.

/// Throws unless x is f32 or f64 [rows, width] and not empty.
void require_rows(const char* loss, const char* argument, const Variable& x);
/// Throws unless both are, of one type and width.
void require_rows(const char* loss, const Variable& a, const Variable& b, const char* name_a, const char* name_b);
/// The same, but for rows: there may be none.
void require_rows_or_none(const char* loss, const char* argument, const Variable& x);
void require_rows_or_none(const char* loss, const Variable& a, const Variable& b, const char* name_a,
                          const char* name_b);
/// The same as require_rows, and as many rows in both.
void require_pairs(const char* loss, const Variable& a, const Variable& b, const char* name_a, const char* name_b);
/// Throws ShapeError unless there are M·(1+h) targets, called `name`, for M queries; gives 1 + h.
std::int64_t require_multiple(const char* loss, const char* name, std::int64_t targets, std::int64_t queries);
/// Throws ValueError unless low <= value < high.
void require_between(const char* loss, const char* option, double value, double low, double high);
/// Throws ValueError unless the value is finite in this type.
void require_finite(const char* loss, const std::string& option, double value, DType dtype);
/// Throws ValueError unless 0 <= label_smoothing < 1 and 0 <= hardness, which is finite in the type of x, an argument.
void require_weighting(const char* loss, double label_smoothing, double hardness, const char* argument,
                       const Variable& x);
/// Throws unless a guide's representations are f32 or f64 [rows, width], as many as given, of one type and width.
void require_guide(const char* loss, const Tensor& guide_queries, const Tensor& guide_targets, std::int64_t queries,
                   std::int64_t targets);
/// Throws ValueError for what is no way of candidates.
void require_candidates(const char* loss, SharedCandidates candidates);
/// Throws ValueError for tiles below one sample.
void require_tiles(const char* loss, const std::optional<ops::TileOptions>& tiles);
/// Throws ValueError unless the option, which tiles cannot have, is 0.
void require_none_in_tiles(const char* loss, const char* option, double value);

/// Also added to a logit that is no candidate.
using kernels::kExcluded;

/// A scalar constant of the type and on the device of another.
Variable constant_like(const Variable& like, double value);
/// [0, step, 2·step, …] on the host, where indices are checked
Tensor arange(std::int64_t step, std::int64_t count);
/// scale · a bᵀ, with the factor on the smaller operand instead of the product
Variable scaled_logits(const Variable& a, const Variable& b, const Variable& scale);

/// A constant like another: ops::diagonal.
Variable diagonal(const Variable& like, std::int64_t rows, std::int64_t cols, std::int64_t step, double value);

/// A constant [queries, targets] of 1 at the pairs that are left out, and 0 elsewhere, like the queries. Undefined
/// where all targets differ.
Variable excluded_pairs(const char* loss, const ops::EqualTargets& equal, const Variable& queries,
                        const Variable& targets, ops::RowsOf rows, const Tensor& target_mask = {});
/// The logits, with kExcluded added at pairs that are left out.
Variable without(const Variable& logits, const Variable& excluded);

}  // namespace tapecache::losses::detail

#pragma GCC visibility pop
