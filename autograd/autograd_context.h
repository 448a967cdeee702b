#pragma once

#include <vector>

#include "tapecache/autograd/variable.h"
#include "tapecache/core/forward_context.h"

#pragma GCC visibility push(hidden)

namespace tapecache {

class GradientWatch;
class OperandCache;
class Tape;
class UndoLog;

namespace detail {

/// As core's `ThreadContext`, for this floor: who takes part, for a scope, in what this thread computes. None may be
/// kept.
struct AutogradContext {
  Tape* tape = nullptr;                          // that operations are recorded on
  std::vector<Parameter>* parameters = nullptr;  // that operations read while no tape is active are listed there
  int recordings = 0;                            // scopes that say which tape is active
  int refuses_history_at = -1;                   // with so many of them, what operations read must have no history
  OperandCache* operands = nullptr;
  UndoLog* undo = nullptr;               // the innermost
  const GradientWatch* watch = nullptr;  // the innermost
  bool hooks = true;                     // whether those of parameters run
};

inline constinit thread_local AutogradContext autograd_context;

}  // namespace detail
}  // namespace tapecache

#pragma GCC visibility pop
