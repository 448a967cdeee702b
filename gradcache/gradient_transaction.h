#pragma once

#include <functional>
#include <span>
#include <vector>

#include "tapecache/autograd/undo_log.h"
#include "tapecache/core/random.h"

#pragma GCC visibility push(hidden)

namespace tapecache::gradcache {

/// Gradients of a step that is not yet known to succeed, or that is only tried: what the parameters had is set aside,
/// the step adds to nothing, and only `join` joins the two, and `keep_joined` makes that last. Without it, gradients,
/// random state and buffers are as before.
class GradientTransaction : UndoLog {
 public:
  /// With kInner, what transactions within this one add, on this thread, is added here first.
  enum class Adopts { kNone, kInner };

  explicit GradientTransaction(Adopts adopts = Adopts::kNone);
  ~GradientTransaction() override;

  /// Sets aside the gradients of those that are not yet known.
  void add(std::span<const Parameter> parameters);
  /// Whether no parameter is known: none would be given a gradient.
  bool empty() const { return entries_.empty(); }
  /// Those that are known, in the order they were added.
  std::vector<Parameter> parameters() const;
  /// Takes away what the step has given so far.
  void clear();
  /// Gradients, random state and buffers as before the step, and nothing known.
  void roll_back();
  /// Gradients and buffers as before the step; the random state stays where the step has brought it.
  void keep_random_state();
  /// Joins the step's gradients with those of before and runs the hooks of the parameters that the step gave one, which
  /// it returns in the order they were added; `before_hooks` is called with them in between. Where that or a hook
  /// throws, nothing was joined.
  std::vector<Parameter> join(const std::function<void(std::span<const Parameter>)>& before_hooks = {});
  /// What was joined stays.
  void keep_joined();

 private:
  void before_gradients(std::span<const Parameter> parameters) override;

  struct Entry {
    Parameter parameter;
    Tensor before;
  };
  std::vector<Entry> entries_;
  RandomState random_;
  Adopts adopts_;
  bool committed_ = false;
};

}  // namespace tapecache::gradcache

#pragma GCC visibility pop
