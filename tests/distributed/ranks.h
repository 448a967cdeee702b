#pragma once

#include <chrono>
#include <cmath>
#include <functional>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "checks.h"
#include "require.h"
#include "tapecache/core/random.h"
#include "tapecache/distributed/communicator.h"
#include "tapecache/gradcache/step.h"

/// What tests of several ranks share. Boost.Test counts in its own thread alone, so ranks throw, or give back what is
/// then looked at.
namespace tapecache::testing {

using distributed::Communicator;
using distributed::run_in_threads;
using test::contains;
using test::require;

inline constexpr std::chrono::milliseconds kLimit = std::chrono::seconds(60);

/// Where a launcher of MPI started the program: the group of its processes, and how many times ranks were run on it.
/// Else null, and ranks are threads.
struct World {
  Communicator* group = nullptr;
  int runs = 0;
};
inline World world;

/// Whether there can be a group of so many ranks: by MPI of all processes alone.
inline bool has_group(int size) { return world.group == nullptr || world.group->size() == size; }

/// Runs a function on each rank of a group, where there can be one of that size.
inline void on_ranks(int size, const std::function<void(Communicator&)>& function) {
  if (world.group == nullptr) return run_in_threads(size, function, kLimit);
  if (!has_group(size)) return;
  ++world.runs;
  try {
    function(*world.group);
  } catch (const std::exception& error) {
    world.group->fail(error.what());
    throw;
  }
}

/// For a case whose ranks must be threads: `*boost::unit_test::precondition(on_threads)`.
inline boost::test_tools::assertion_result on_threads(boost::unit_test::test_unit_id) {
  boost::test_tools::assertion_result held(world.group == nullptr);
  held.message() << "its ranks are threads";
  return held;
}

/// A number for the bits of each tensor, and for its type and shape; 0 for one that is undefined.
inline std::vector<std::int64_t> digests(const std::vector<Tensor>& tensors) {
  std::vector<std::int64_t> numbers;
  for (const Tensor& tensor : tensors) {
    std::uint64_t hash = 0;
    const auto add = [&](std::uint64_t word) {
      hash = (hash ^ word) * 0x9E3779B97F4A7C15u;
      hash ^= hash >> 29;
    };
    if (tensor.defined()) {
      const Tensor here = tensor.to(Device::cpu());
      add(static_cast<std::uint64_t>(tensor.dtype()) + 1);
      for (int axis = 0; axis < tensor.rank(); ++axis) add(static_cast<std::uint64_t>(tensor.size(axis)));
      for (std::size_t i = 0; i < here.bytes(); ++i) add(static_cast<std::uint64_t>(here.raw()[i]));
    }
    numbers.push_back(static_cast<std::int64_t>(hash));
  }
  return numbers;
}

/// Rank 0's numbers in the place of this rank's.
inline std::vector<std::int64_t> of_rank_0(Communicator& ranks, std::vector<std::int64_t> numbers) {
  Tensor told = Tensor::wrap(numbers.data(), {static_cast<std::int64_t>(numbers.size())});
  ranks.broadcast(told, 0);
  return numbers;
}

/// A group whose calls are told of before and after they are made.
class Watched final : public Communicator {
 public:
  using Told = std::function<void(const std::string& call, const Tensor& of)>;

  Watched(
      Communicator& inner, Told before, Told after = [](const std::string&, const Tensor&) {})
      : Communicator(inner.rank(), inner.size(), inner.limit()),
        inner_(inner),
        before_(std::move(before)),
        after_(std::move(after)) {}
  std::string name() const override { return inner_.name(); }
  void fail(std::string_view why) noexcept override { inner_.fail(why); }

 private:
  void do_all_gather(const Tensor& rows, Tensor& all, std::span<const std::int64_t> counts) override {
    before_("gather", all);
    inner_.all_gather(rows, all, counts);
    after_("gather", all);
  }
  void do_reduce_scatter(const Tensor& all, Tensor& rows, std::span<const std::int64_t> counts) override {
    before_("scatter", all);
    inner_.reduce_scatter(all, rows, counts);
    after_("scatter", all);
  }
  void do_all_reduce(Tensor& values, distributed::Communicator::Reduction reduction) override {
    before_("reduce", values);
    inner_.all_reduce(values, reduction);
    after_("reduce", values);
  }
  void do_broadcast(Tensor& values, int root) override {
    before_("broadcast", values);
    inner_.broadcast(values, root);
    after_("broadcast", values);
  }
  void do_send_receive(const Tensor& sent, int to, Tensor& received, int from) override {
    before_("exchange", sent);
    inner_.send_receive(sent, to, received, from);
    after_("exchange", sent);
  }
  void do_barrier() override { inner_.barrier(); }

  Communicator& inner_;
  Told before_, after_;
};

/// Which rows of each tower a rank has.
class Slice {
 public:
  Slice() = default;  // all
  Slice(int rank, std::vector<std::vector<std::int64_t>> counts) : rank_(rank), counts_(std::move(counts)) {}

  std::int64_t first(std::size_t tower) const {
    if (counts_.empty()) return 0;
    const std::vector<std::int64_t>& counts = counts_[std::min(tower, counts_.size() - 1)];
    return std::accumulate(counts.begin(), counts.begin() + rank_, std::int64_t{0});
  }
  Tensor operator()(std::size_t tower, const Tensor& whole) const {
    if (counts_.empty()) return whole;
    const std::int64_t own = counts_[std::min(tower, counts_.size() - 1)][static_cast<std::size_t>(rank_)];
    return whole.slice(first(tower), first(tower) + own);
  }

 private:
  int rank_ = 0;
  std::vector<std::vector<std::int64_t>> counts_;  // of each tower, the last for all others; of each rank
};

/// A program that every rank runs on its slice: makes its model anew, takes steps, and tells the last one's result with
/// the parameters that it may have given gradients.
struct Run {
  gradcache::StepResult result;
  std::vector<Parameter> parameters;
};
using Program = std::function<Run(Communicator* ranks, const Slice& slice)>;

/// What a rank is left with.
struct Outcome {
  gradcache::StepResult result;
  std::vector<std::string> names;
  std::vector<Tensor> gradients, values;
  RandomState random;
  int rank = 0;
  std::vector<std::int64_t> digests_of_0;  // of rank 0's gradients
};

inline Outcome outcome_of(const Program& program, Communicator* ranks, const Slice& slice) {
  begin_random_step(11, 4);
  const Run run = program(ranks, slice);
  Outcome outcome{run.result, {}, {}, {}, random_state(), 0, {}};
  for (const Parameter& p : run.parameters) {
    outcome.names.push_back(p.name());
    outcome.gradients.push_back(p.gradient());
    outcome.values.push_back(p.value());
  }
  outcome.digests_of_0 = digests(outcome.gradients);
  if (ranks != nullptr) {
    outcome.rank = ranks->rank();
    outcome.digests_of_0 = of_rank_0(*ranks, outcome.digests_of_0);
  }
  return outcome;
}

/// Counts of `samples` for each rank of a group, uneven, one of them none where there are three.
inline std::vector<std::int64_t> uneven(std::int64_t samples, int ranks) {
  std::vector<std::int64_t> counts(static_cast<std::size_t>(ranks), 0);
  for (std::int64_t i = 0; i < samples; ++i) ++counts[static_cast<std::size_t>(i * i * 7 + i) % counts.size()];
  if (ranks >= 3) counts[0] += std::exchange(counts[1], 0);
  return counts;
}

/// What each rank gives back, in the order of ranks: all of them, or by MPI that of this process.
template <class Result>
std::vector<Result> results_of(int size, const std::function<Result(Communicator&)>& function) {
  std::vector<std::optional<Result>> all(static_cast<std::size_t>(size));
  on_ranks(size, [&](Communicator& ranks) { all[static_cast<std::size_t>(ranks.rank())] = function(ranks); });
  std::vector<Result> here;
  for (std::optional<Result>& result : all) {
    if (result) here.push_back(std::move(*result));
  }
  return here;
}

inline std::vector<Outcome> outcomes_of(const Program& program, int size,
                                        const std::vector<std::vector<std::int64_t>>& counts) {
  return results_of<Outcome>(size, [&](Communicator& ranks) {
    return outcome_of(program, &ranks, {ranks.rank(), counts});
  });
}

/// Of two gradients, either of which may be undefined.
inline bool same_gradient(const Tensor& a, const Tensor& b) {
  return a.defined() == b.defined() && (!a.defined() || same_bits(a, b));
}

/// ‖a - b‖ / ‖b‖ over all of them together; infinite where one has a gradient that the other lacks. Where b all but
/// vanishes, what is left is rounding.
inline double distance(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  double difference = 0, norm = 1e-20;
  for (std::size_t i = 0; i < b.size(); ++i) {
    if (a[i].defined() != b[i].defined()) return INFINITY;
    if (!b[i].defined()) continue;
    const std::vector<double> x = doubles(a[i]), y = doubles(b[i]);
    for (std::size_t k = 0; k < y.size(); ++k) {
      difference += (x[k] - y[k]) * (x[k] - y[k]);
      norm += y[k] * y[k];
    }
  }
  return std::sqrt(difference / norm);
}

/// What ranks are left with is what one process is, and the same bits on all of them.
inline void check_as_alone(const std::vector<Outcome>& outcomes, const Outcome& alone, double tolerance) {
  for (const Outcome& found : outcomes) {
    BOOST_TEST_CONTEXT("rank " << found.rank) {
      BOOST_TEST(found.names == alone.names);
      BOOST_TEST((found.result.status == alone.result.status));
      BOOST_TEST(found.result.message == alone.result.message);
      const double expected = alone.result.loss.item(), loss = found.result.loss.item();
      BOOST_TEST(((std::isnan(loss) && std::isnan(expected)) ||
                  std::abs(loss - expected) <= tolerance * std::max(1.0, std::abs(expected))));
      BOOST_TEST(distance(found.gradients, alone.gradients) <= tolerance);
      BOOST_TEST(digests(found.gradients) == found.digests_of_0, boost::test_tools::per_element());
      BOOST_TEST((found.random == alone.random));
      BOOST_TEST(found.result.auxiliary.size() == alone.result.auxiliary.size());
      for (std::size_t i = 0; i < found.result.auxiliary.size(); ++i) {
        BOOST_TEST(std::abs(found.result.auxiliary[i].mean - alone.result.auxiliary[i].mean) <= tolerance);
      }
      BOOST_TEST(found.result.representations.size() == alone.result.representations.size());
      for (std::size_t i = 0; i < found.result.representations.size(); ++i) {
        const Tensor &a = found.result.representations[i], &b = alone.result.representations[i];
        BOOST_TEST((a.shape() == b.shape()));
        BOOST_TEST(distance({a}, {b}) <= tolerance);
      }
      std::vector<std::string> given, given_alone;
      for (const Parameter& p : found.result.parameters) given.push_back(p.name());
      for (const Parameter& p : alone.result.parameters) given_alone.push_back(p.name());
      BOOST_TEST(given == given_alone);
    }
  }
}

/// The program on 1 to 4 ranks, with uneven shares of each tower's samples, as in one process.
inline void check_ranks(const Program& program, const std::vector<std::int64_t>& samples, double tolerance = 1e-12) {
  const Outcome alone = outcome_of(program, nullptr, {});
  for (const int size : {1, 2, 3, 4}) {
    std::vector<std::vector<std::int64_t>> counts;
    for (const std::int64_t n : samples) counts.push_back(uneven(n, size));
    check_as_alone(outcomes_of(program, size, counts), alone, tolerance);
  }
}

}  // namespace tapecache::testing
