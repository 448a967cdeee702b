#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "tapecache/gradcache/gradient_transaction.h"
#include "tapecache/gradcache/step.h"

#pragma GCC visibility push(hidden)

/// What a step's device computes for the step's result. Private to gradcache.
namespace tapecache::gradcache::detail {

/// A summand of the mean of an auxiliary loss over `samples`.
struct AuxiliarySum {
  std::string name;
  Tensor sum;  ///< f64 scalar
  std::int64_t samples = 1;
  double weight = 1;
};

/// Scalars that stay on the device until the step must know them, and are then read together: the host waits once.
class StepReadings {
 public:
  /// An output over the whole batch.
  void add_representations(const Tensor& representations);
  void clear_representations() {
    squares_.clear();
    samples_.clear();
  }
  /// Those of one index are summands of one mean; indices begin at 0.
  void add_auxiliary(std::size_t index, AuxiliarySum part) { auxiliary_.push_back({index, std::move(part)}); }
  void set_loss(const Tensor& loss) { loss_ = loss; }
  /// Some may be undefined.
  void set_caches(std::span<const std::vector<Tensor>> caches);

  /// The loss with its auxiliary parts, as an f64 scalar.
  Number total_loss() const;
  /// Sets a result's loss, auxiliary means and norms. Returns how many elements of the caches are not finite.
  double read(StepResult& result) const;

 private:
  std::vector<Tensor> squares_;
  std::vector<std::int64_t> samples_;
  std::vector<std::pair<std::size_t, AuxiliarySum>> auxiliary_;
  Tensor loss_, non_finite_;
};

/// Gives the step's gradients to their parameters, or, where the step was refused, puts back what was there before it,
/// but for the random state; `GradientTransaction::keep_joined` ends it. Of a deferred step, counts what is not finite
/// before hooks may take the gradients.
void join_step(GradientTransaction& transaction, StepResult& result, bool deferred);

/// Σ over all elements, as an f64 scalar: taken of a whole batch, it does not show where the batch was cut.
Tensor sum_of_elements(const Tensor& values);

}  // namespace tapecache::gradcache::detail

#pragma GCC visibility pop
