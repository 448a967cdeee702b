#pragma once

#include <span>
#include <vector>

#include "tapecache/autograd/parameter.h"
#include "tapecache/core/random.h"

namespace tapecache::gradcache {

/// Gradients of a step that is not yet known to succeed, or that is only tried: what the parameters had is set aside,
/// the step adds to nothing, and only `commit` joins the two. Without it, gradients and random state are as before.
class GradientTransaction {
 public:
  GradientTransaction() : random_(random_state()) {}
  ~GradientTransaction();
  GradientTransaction(const GradientTransaction&) = delete;
  GradientTransaction& operator=(const GradientTransaction&) = delete;

  /// Sets aside the gradients of those that are not yet known.
  void add(std::span<const Parameter> parameters);
  /// Takes away what the step has given so far.
  void clear();
  /// Gradients and random state as before the step, and nothing known.
  void roll_back();
  /// Gradients as before the step; the random state stays where the step has brought it.
  void keep_random_state();
  /// Joins the step's gradients with those of before and runs the hooks of the parameters that the step gave one, which
  /// it returns in the order they were added. Where a hook throws, nothing was joined.
  std::vector<Parameter> commit();

 private:
  struct Entry {
    Parameter parameter;
    Tensor before;
  };
  std::vector<Entry> entries_;
  RandomState random_;
  bool committed_ = false;
};

}  // namespace tapecache::gradcache
