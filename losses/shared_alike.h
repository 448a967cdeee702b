#pragma once

#include <optional>

#include "tapecache/autograd/variable.h"
#include "tapecache/losses/losses.h"
#include "tapecache/losses/shared.h"

#pragma GCC visibility push(hidden)

/// What ranks that take a loss together must be told alike.
namespace tapecache::losses::detail {

enum class SharedLoss { kInfoNce, kClip, kSiglip, kGist, kNtXent, kSupCon, kMaxsim };
const char* name(SharedLoss loss);

InCommon of_loss(SharedLoss loss);
InCommon of_type(const char* what, DType dtype);
/// Of a scalar that is on a device or undefined nothing is compared.
InCommon of_scalar(const char* what, const Variable& scalar);
InCommon of_equal_targets(const ops::EqualTargets& equal);
InCommon of_candidates(SharedCandidates candidates);
/// Backward is on all ranks or on none.
InCommon of_recording(bool recorded);

/// Whether candidates go around in a ring: the same on all ranks.
bool in_ring(const distributed::Communicator& ranks, SharedCandidates candidates, const Brought& brought,
             std::int64_t rows, const Variable& like);

/// How many targets, called `targets`, are a query's, on every rank: at most one unless `several`. Throws ShapeError
/// where no rank has a query, or a rank has another number for each.
std::int64_t targets_of_each(const char* loss, const Brought& brought, const char* queries, const char* targets,
                             bool several);
/// The first target of each query, of targets [targets, …].
Variable positives_of(const Variable& targets, std::int64_t queries, std::int64_t step);

}  // namespace tapecache::losses::detail

#pragma GCC visibility pop
