#pragma once

#include <span>
#include <string>
#include <vector>

#include "tapecache/autograd/variable.h"
#include "tapecache/gradcache/ranks.h"

#pragma GCC visibility push(hidden)

namespace tapecache::gradcache::detail {

/// The one reduction of a step: the encoders' gradients of all ranks are added, each rank having those of its own
/// samples; what the loss alone gave is whole on every rank, and rank 0's is taken.
class GradientReduction {
 public:
  /// The encoders' parameters, and all others of the step. Every rank has the same, in the same order. As a tree over
  /// the ranks, sums do not depend on the backend.
  GradientReduction(std::vector<Parameter> of_encoders, std::vector<Parameter> of_loss, bool as_tree);

  /// Notes which parameters have a gradient, and allocates all that `run` will need; this may fail on this rank alone.
  void prepare();
  /// Does not fail but with the communicator.
  void run(Ranks& ranks);

 private:
  /// Small gradients that travel together.
  struct Bucket {
    Tensor values;
    std::vector<Parameter> parameters;
  };

  void sum(Ranks& ranks, Tensor& values);

  std::vector<Parameter> of_encoders_, of_loss_;
  bool as_tree_;
  Tensor received_;  // room for what another rank sends, as a tree has it
  std::vector<std::int64_t> given_;
  std::vector<Bucket> buckets_;
};

/// By name, as every rank finds them, whatever it meets first.
std::vector<Parameter> in_common_order(std::vector<Parameter> parameters);

}  // namespace tapecache::gradcache::detail

#pragma GCC visibility pop
