#pragma once

#include "tapecache/core/dtype.h"
#include "tapecache/core/random.h"
#include "tapecache/core/scoped_value.h"

namespace tapecache {

/// What a forward on this thread depends on beside its arguments and its parameters. All of it is values, and who runs
/// a forward again (activation checkpointing, the second forward of a cached step) keeps a copy of the whole and puts
/// it in force again:
///
///   const ForwardContext first = forward_context();
///   …
///   const ScopedValue again(forward_context(), first.repeated());
///
/// So what is added here is repeated without being mentioned anywhere else.
struct ForwardContext {
  RandomState random = {};
  DType autocast = DType::kFloat32;  ///< of the operands of matrix products: see `Autocast`
  bool anomaly_mode = false;         ///< see `AnomalyMode`
  /// A forward that repeats an earlier one: buffers such as running averages were updated then and must not be updated
  /// again.
  bool recompute = false;
  /// The samples in view are a part of the batch: statistics over them are not those of the batch. What looks at
  /// several samples at once asks here.
  bool partial_batch = false;

  /// For a forward that repeats the one this is of.
  ForwardContext repeated() const {
    ForwardContext context = *this;
    context.recompute = true;
    return context;
  }
  bool operator==(const ForwardContext&) const = default;
};

/// The context of this thread.
ForwardContext& forward_context();

}  // namespace tapecache
