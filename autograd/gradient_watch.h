#pragma once

#include <functional>

#include "tapecache/autograd/autograd_context.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/core/forward_context.h"

#pragma GCC visibility push(hidden)

namespace tapecache {

/// Tells, for a scope on this thread, of each parameter to whose gradient the backward pass of one tape has added its
/// last contribution, as hooks are told. Other tapes, those that a derivative runs, are not looked at.
class [[nodiscard]] GradientWatch : public detail::OfOneScope {
 public:
  using Complete = std::function<void(const Parameter&)>;

  /// Tape and function must outlive it.
  GradientWatch(const Tape& tape, const Complete& complete)
      : tape_(tape), complete_(complete), innermost_(detail::autograd_context.watch, this) {}

  static void tell(const Tape& tape, const Parameter& parameter) {
    const GradientWatch* const watch = detail::autograd_context.watch;
    if (watch != nullptr && &watch->tape_ == &tape) watch->complete_(parameter);
  }

 private:
  const Tape& tape_;
  const Complete& complete_;
  ScopedValue<const GradientWatch*> innermost_;
};

}  // namespace tapecache

#pragma GCC visibility pop
