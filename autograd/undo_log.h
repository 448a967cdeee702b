#pragma once

#include <span>
#include <vector>

#include "tapecache/autograd/variable.h"
#include "tapecache/core/forward_context.h"

#pragma GCC visibility push(hidden)

namespace tapecache {

/// Gives buffers back, on leaving a scope on this thread, what they held before it, unless that is kept: for passes
/// that are only tried, or may fail and be tried again. It knows of the changes that `before_change` was told of.
class [[nodiscard]] UndoLog : public detail::OfOneScope {
 public:
  UndoLog();
  virtual ~UndoLog();
  UndoLog(const UndoLog&) = delete;
  UndoLog& operator=(const UndoLog&) = delete;

  /// Undoes the changes until now.
  void restore();
  /// Leaves the changes until now to the log around this one.
  void keep();

 protected:
  /// Called before a transaction within the scope gives these parameters gradients; the logs around this one are told
  /// first.
  virtual void before_gradients(std::span<const Parameter> parameters);

 private:
  friend void before_change(const Tensor& buffer);

  struct Noted {
    Tensor buffer, before;
  };
  bool knows(const Tensor& buffer) const;

  std::vector<Noted> noted_;
  UndoLog* outer_;
  ScopedValue<UndoLog*> innermost_;
};

}  // namespace tapecache

#pragma GCC visibility pop
