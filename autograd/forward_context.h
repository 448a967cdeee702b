#pragma once

#include "tapecache/core/language.h"

namespace tapecache {

/// How the forward that runs on this thread stands to the batch. What keeps state of its own, or looks at several
/// samples at once, asks here.
struct ForwardContext {
  /// A forward that repeats an earlier one (activation checkpointing, the second forward of a cached step): buffers
  /// such as running averages were updated then and must not be updated again.
  bool replay = false;
  /// The samples in view are a part of the batch: statistics over them are not those of the batch.
  bool partial_batch = false;
};

/// The context of this thread.
ForwardContext& forward_context();

/// Sets the context for a scope and restores the previous one.
class ForwardContextGuard {
 public:
  explicit ForwardContextGuard(ForwardContext context) : previous_(forward_context()) { forward_context() = context; }
  ~ForwardContextGuard() { forward_context() = previous_; }
  ForwardContextGuard(const ForwardContextGuard&) = delete;
  ForwardContextGuard& operator=(const ForwardContextGuard&) = delete;

 private:
  ForwardContext previous_;
};

}  // namespace tapecache
