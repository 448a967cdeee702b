#pragma once

#include <chrono>
#include <cmath>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

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
};

inline Outcome outcome_of(const Program& program, Communicator* ranks, const Slice& slice) {
  begin_random_step(11, 4);
  const Run run = program(ranks, slice);
  Outcome outcome{run.result, {}, {}, {}, random_state()};
  for (const Parameter& p : run.parameters) {
    outcome.names.push_back(p.name());
    outcome.gradients.push_back(p.gradient());
    outcome.values.push_back(p.value());
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

inline std::vector<Outcome> outcomes_of(const Program& program, int size,
                                        const std::vector<std::vector<std::int64_t>>& counts) {
  std::vector<Outcome> outcomes(static_cast<std::size_t>(size));
  run_in_threads(
      size,
      [&](Communicator& ranks) {
        outcomes[static_cast<std::size_t>(ranks.rank())] = outcome_of(program, &ranks, {ranks.rank(), counts});
      },
      kLimit);
  return outcomes;
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
  for (std::size_t r = 0; r < outcomes.size(); ++r) {
    BOOST_TEST_CONTEXT("rank " << r << " of " << outcomes.size()) {
      const Outcome& found = outcomes[r];
      BOOST_TEST(found.names == alone.names);
      BOOST_TEST((found.result.status == alone.result.status));
      BOOST_TEST(found.result.message == alone.result.message);
      const double expected = alone.result.loss.item(), loss = found.result.loss.item();
      BOOST_TEST(((std::isnan(loss) && std::isnan(expected)) ||
                  std::abs(loss - expected) <= tolerance * std::max(1.0, std::abs(expected))));
      BOOST_TEST(distance(found.gradients, alone.gradients) <= tolerance);
      for (std::size_t i = 0; i < found.gradients.size(); ++i) {
        BOOST_TEST(same_gradient(found.gradients[i], outcomes[0].gradients[i]), alone.names[i]);
      }
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
