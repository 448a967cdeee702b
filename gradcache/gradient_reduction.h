#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <mutex>
#include <span>
#include <thread>
#include <unordered_map>
#include <vector>

#include "tapecache/autograd/variable.h"
#include "tapecache/gradcache/ranks.h"

#pragma GCC visibility push(hidden)

namespace tapecache::gradcache::detail {

/// The one reduction of a step: gradients of all ranks are added, each rank having those of its own samples, in buckets
/// of one order on all ranks, each when all ranks have it. Before a bucket travels all are told whether one has given
/// up, so that none waits for its gradients.
///
/// A thread makes these calls while this one computes: a backend may move nothing while nobody calls it. From `begin`
/// to `finish` the communicator is its own. Gradients on devices, whose work a second thread would not wait for, and
/// all of them without overlap, are added by `finish`.
class GradientReduction {
 public:
  /// The parameters are the same on all ranks, and in the same order. As a tree over the ranks, sums do not depend on
  /// the backend.
  GradientReduction(Ranks& ranks, std::vector<Parameter> parameters, const ReductionOptions& options, bool as_tree);
  /// Where `finish` was not called, gives up.
  ~GradientReduction();
  GradientReduction(const GradientReduction&) = delete;
  GradientReduction& operator=(const GradientReduction&) = delete;

  /// All ranks begin together. `expected` are the parameters as they are likely to be complete here, whose order on
  /// rank 0 is that of all.
  void begin(std::span<const Parameter> expected);
  /// Allocates what the sums need, before the first gradient is complete; may fail on this rank alone.
  void make_room();
  /// This rank adds nothing more to the parameter's gradient. May fail on this rank alone.
  void complete(const Parameter& parameter);
  /// For all that are not.
  void complete_all();
  /// This rank completes no more: all ranks stop where they are.
  void give_up() noexcept;
  /// Returns when all gradients are sums, or all ranks have stopped. What no rank has a gradient of is given none.
  void finish();

 private:
  struct Member {
    Parameter parameter;
    bool complete = false;
    std::int64_t given = 0;  // whether this rank has a gradient
  };
  /// Of members [begin, end), of one type and device.
  struct Bucket {
    std::size_t begin, end;
    std::size_t missing;  // that are not complete
  };

  void make_buckets();
  void reduce_all();
  bool is_complete(const Bucket& bucket);
  void reduce(const Bucket& bucket);
  void sum(Tensor& values);
  std::span<Member> members_of(const Bucket& bucket) {
    return std::span(members_).subspan(bucket.begin, bucket.end - bucket.begin);
  }

  Ranks& ranks_;
  ReductionOptions options_;
  bool as_tree_;
  std::vector<Member> members_;
  std::vector<Bucket> buckets_;
  std::unordered_map<const void*, std::size_t> member_of_;  // a parameter
  std::vector<std::size_t> bucket_of_;                      // a member
  std::vector<Tensor> joined_;    // of each type and device, room for a bucket's small gradients
  std::vector<Tensor> received_;  // the same, for what another rank sends, as a tree has it
  std::mutex mutex_;              // of what is complete
  std::condition_variable changed_;
  bool gave_up_ = false;
  std::thread thread_;
  std::exception_ptr error_;  // of the thread
};

/// Gradients that are whole on every rank, as those that the loss alone gave: all take rank 0's.
class GradientsOfLoss {
 public:
  explicit GradientsOfLoss(std::vector<Parameter> parameters) : parameters_(std::move(parameters)) {}
  /// Allocates those that are missing; may fail on this rank alone.
  void make_room();
  void take(Ranks& ranks);

 private:
  std::vector<Parameter> parameters_;
  std::vector<std::int64_t> given_;
};

/// By name, as every rank finds them, whatever it meets first.
std::vector<Parameter> in_common_order(std::vector<Parameter> parameters);

}  // namespace tapecache::gradcache::detail

#pragma GCC visibility pop
