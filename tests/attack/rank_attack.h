#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "failing_allocation.h"
#include "gradcache_checks.h"
#include "tapecache/distributed/communicator.h"

namespace tapecache::testing {

/// One of two ranks, with what a step may change: parameters, their gradients, a buffer, random state.
struct Rank {
  static constexpr std::int64_t kSamples = 9;

  int number;
  std::int64_t begin, end;  // its samples
  ClipSetup setup{kSamples, DType::kFloat64, 0.2};
  Parameter bias{"bias", Tensor::full({}, -0.7, DType::kFloat64)};
  Tensor forwards = Tensor::zeros({1}, DType::kFloat64);
  std::vector<Tensor> values, gradients;

  explicit Rank(int rank);

  std::vector<Parameter> parameters() const { return joined({setup.parameters(), {bias}}); }
  /// Brings everything to where a step begins.
  void prepare();
  /// Whether everything is as where a step begins.
  bool as_prepared() const;
  std::vector<Tower> towers() const;
  /// This rank's rows of what all have.
  Tensor own(const Tensor& all) const { return all.slice(begin, end); }
};

/// A loss of representations: of this rank's own samples where the communicator is given, else of all.
using LossOfRank =
    std::function<Variable(std::span<const Variable>, const Rank& rank, distributed::Communicator* shared)>;

/// A step that two ranks take.
struct RankStep {
  std::string name;
  /// Makes what takes it; no allocation fails meanwhile.
  std::function<std::function<gradcache::StepResult()>(const Rank& rank, distributed::Communicator& ranks)> of;
  /// How far numbers may be from those of a step in peace where it gets over the failure.
  double tolerance = 0;
};

/// Lets an allocation of either rank fail, every `stride`-th of them; in the whole attack every one. Then both throw,
/// the rank that it was for want of memory, and everything is as before; or neither does, and the step is that of a run
/// in peace. Done again it is that, too, by the same group where that goes on. Returns how many failed.
std::int64_t attack_ranks(const RankStep& step, Memory memory, std::int64_t stride);

}  // namespace tapecache::testing
