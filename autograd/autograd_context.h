#pragma once

#include <vector>

#include "tapecache/autograd/variable.h"
#include "tapecache/core/forward_context.h"

#pragma GCC visibility push(hidden)

namespace tapecache {

class GradientWatch;
class Tape;
class UndoLog;

namespace detail {

class OperandCache;

/// State of autograd on this thread. As in `ThreadContext`, each member is set for a scope and may not be stored.
struct AutogradContext {
  Tape* tape = nullptr;                          // the active tape
  std::vector<Parameter>* parameters = nullptr;  // lists the parameters that operations read without a tape
  int recordings = 0;                            // number of Recording scopes
  int refuses_history_at = -1;                   // with this number of them, inputs must have no history
  OperandCache* operands = nullptr;
  UndoLog* undo = nullptr;               // the innermost log
  const GradientWatch* watch = nullptr;  // the innermost watch
  bool hooks = true;                     // whether hooks of parameters run
};

inline constinit thread_local AutogradContext autograd_context;

}  // namespace detail
}  // namespace tapecache

#pragma GCC visibility pop
