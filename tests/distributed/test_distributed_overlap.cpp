#include <boost/test/unit_test.hpp>

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>
#include <vector>

#include "gradcache_checks.h"
#include "ranks.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/core/forward_context.h"
#include "tapecache/gradcache/cached.h"

using namespace tapecache;
using namespace tapecache::gradcache;
using namespace tapecache::losses;
using namespace tapecache::testing;

namespace {

/// So that each gradient travels by itself.
constexpr ReductionOptions kOneByOne{.overlap = true, .bucket_bytes = 1};

/// Numbers of elements of the gradients that a rank has added, in order.
class Travelled {
 public:
  void note(std::int64_t elements) {
    const std::lock_guard lock(mutex_);
    elements_.push_back(elements);
    changed_.notify_all();
  }
  /// Whether so many have travelled within half a minute.
  bool wait_for(std::size_t count) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(30), [&] { return elements_.size() >= count; });
  }
  const std::vector<std::int64_t>& elements() const { return elements_; }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::int64_t> elements_;
};

Watched::Told into(Travelled& travelled) {
  return [&](const std::string& call, const Tensor& of) {
    if (call == "reduce" && is_floating(of.dtype())) travelled.note(of.numel());
  };
}

/// Its derivative waits until so many gradients have travelled, in the `nth` of the chunks.
struct Gate {
  Travelled* travelled;
  std::size_t count;
  int nth, passed = 0;

  Variable operator()(const Variable& x) {
    return record("gate", x.value().clone(), {x}, {}, [gate = this](Backward& context) {
      if (++gate->passed == gate->nth) require(gate->travelled->wait_for(gate->count), "nothing has travelled");
      context.pass(0, context.output_gradient());
    });
  }
};

constexpr auto kNothing = [](const std::string&, const Tensor&) {};

}  // namespace

BOOST_AUTO_TEST_SUITE(distributed_overlap)

/// The second forward of the smaller tower waits until the gradients of the larger one are sums; and these come first
/// though the larger tower is the first.
BOOST_AUTO_TEST_CASE(gradients_of_the_largest_tower_travel_while_the_next_one_works) {
  std::vector<Travelled> travelled(2);
  run_in_threads(
      2,
      [&](Communicator& ranks) {
        Travelled& own = travelled[static_cast<std::size_t>(ranks.rank())];
        Watched watched(ranks, kNothing, into(own));
        const Encoder large(10, DType::kFloat64, 0, 5, 50, 4), small(20, DType::kFloat64, 0, 5, 7, 4);
        const auto waits = [&](const Tensor& x) {
          if (forward_context().recompute) require(own.wait_for(3), "the larger tower's gradients have not travelled");
          return small(x);
        };
        const Tensor x = random_values({6, 5}, 1);
        const std::vector<Tower> towers{{"large", x, large}, {"small", x, waits}};
        begin_random_step(1, 2);
        cached_step(towers, [](std::span<const Variable> r) { return clip_loss(r[0], r[1], {.scale = 2.0}); },
                    {.cut = {2}, .communicator = &watched, .reduction = kOneByOne});
      },
      kLimit);
  for (const Travelled& own : travelled) {
    // Within a tower as backward meets them: w2, then w1 and its bias.
    BOOST_TEST(own.elements() == (std::vector<std::int64_t>{200, 50, 250, 28, 7, 35}),
               boost::test_tools::per_element());
  }
}

/// And the derivative of the first layer, in the last chunk, until that of the second is a sum.
BOOST_AUTO_TEST_CASE(in_the_last_chunk_gradients_travel_as_soon_as_they_are_complete) {
  for (const std::int64_t segments : {0, 4}) {
    std::vector<Travelled> travelled(2);
    run_in_threads(
        2,
        [&](Communicator& ranks) {
          Travelled& own = travelled[static_cast<std::size_t>(ranks.rank())];
          Watched watched(ranks, kNothing, [&](const std::string& call, const Tensor& of) {
            if ((call == "reduce" || call == "exchange") && is_floating(of.dtype())) own.note(of.numel());
          });
          const Encoder encoder(10, DType::kFloat64, 0);
          Gate gate{&own, 1, 2};  // of two chunks
          const auto encode = [&](const Tensor& x) {
            const Variable hidden = ops::tanh(ops::linear(x, encoder.w1, encoder.b1));
            return ops::linear(gate(hidden), encoder.w2);
          };
          const std::vector<Tower> towers{{"all", random_values({4, 5}, 1), encode}};
          begin_random_step(1, 2);
          cached_step(
              towers, [](std::span<const Variable> r) { return ops::sum(ops::tanh(r[0])); },
              {.cut = {2}, .communicator = &watched, .reproducible_segments = segments, .reduction = kOneByOne});
          require(gate.passed == 2, "chunks");
        },
        kLimit);
    for (const Travelled& own : travelled) {
      BOOST_TEST(own.elements() == (std::vector<std::int64_t>{28, 7, 35}), boost::test_tools::per_element());
    }
  }
}

/// Towers that share parameters are gone through as without: no gradient of theirs is complete before the last of them.
BOOST_AUTO_TEST_CASE(bits_do_not_depend_on_the_overlap) {
  const auto program = [](const ReductionOptions& reduction, std::int64_t segments, std::int64_t kept) {
    return [=](Communicator* ranks, const Slice& slice) {
      const Encoder shared(10, DType::kFloat32, 0.2), large(20, DType::kFloat32, 0.2, 5, 60, 4);
      const Parameter scale("scale", Tensor::full({}, 2.0));
      const std::vector<Tower> towers{{"a", slice(0, random_values({24, 5}, 1, DType::kFloat32)), shared},
                                      {"b", slice(0, random_values({24, 5}, 2, DType::kFloat32)), large},
                                      {"c", slice(0, random_values({24, 5}, 3, DType::kFloat32)), shared}};
      const Loss loss = [&](std::span<const Variable> r) {
        const Variable own = ops::scale(ops::sum(ops::multiply(large.w2, large.w2)), 0.01);
        return ops::add(ops::add(info_nce(r[0], r[1], {.scale = scale}), info_nce(r[1], r[2])), own);
      };
      return Run{cached_step(towers, loss,
                             {.cut = MemoryPlan{{2}, kept},
                              .communicator = ranks,
                              .reproducible_segments = segments,
                              .reduction = reduction}),
                 joined({shared.parameters(), large.parameters(), {scale}})};
    };
  };
  for (const std::int64_t segments : {0, 4}) {
    for (const int size : {2, 4}) {
      const std::vector<std::int64_t> counts(static_cast<std::size_t>(size), 24 / size);
      const Outcome expected = outcomes_of(program({false}, segments, 0), size, {counts}).front();
      for (const ReductionOptions& reduction :
           {ReductionOptions{true}, kOneByOne, ReductionOptions{true, 500}, ReductionOptions{false, 0}}) {
        for (const std::int64_t kept : {0, 5}) {
          for (const Outcome& found : outcomes_of(program(reduction, segments, kept), size, {counts})) {
            for (std::size_t i = 0; i < expected.gradients.size(); ++i) {
              BOOST_TEST(same_gradient(found.gradients[i], expected.gradients[i]), expected.names[i]);
            }
          }
        }
      }
    }
  }
}

/// Ranks that meet parameters in other orders, or not all of them, follow rank 0.
BOOST_AUTO_TEST_CASE(the_order_is_rank_0s) {
  std::vector<Travelled> travelled(3);
  const auto counts = std::vector<std::int64_t>{4, 0, 8};
  const Program program = [&](Communicator* ranks, const Slice& slice) {
    const Encoder a(10, DType::kFloat64, 0.1, 5, 9, 4), b(20, DType::kFloat64, 0.1, 5, 8, 4);
    for (Parameter p : b.parameters()) p.set_name("b." + p.name());
    Watched watched(*ranks, kNothing, into(travelled[static_cast<std::size_t>(ranks->rank())]));
    const auto both = [&](const Tensor& x) {
      const bool turned = ranks->rank() != 0;
      const Variable first = turned ? b(x) : a(x), second = turned ? a(x) : b(x);
      return ops::add(first, second);
    };
    const std::vector<Tower> towers{{"both", slice(0, random_values({12, 5}, 1)), both}};
    const auto loss = [](std::span<const Variable> r) { return ops::sum(ops::tanh(r[0])); };
    const StepOptions options{.cut = {2}, .communicator = &watched, .reduction = kOneByOne};
    return Run{cached_step(towers, loss, options), joined({a.parameters(), b.parameters()})};
  };
  const std::vector<Outcome> outcomes = outcomes_of(program, 3, {counts});
  for (std::size_t r = 0; r < 3; ++r) {
    BOOST_TEST(travelled[r].elements() == (std::vector<std::int64_t>{32, 8, 40, 36, 9, 45}),
               boost::test_tools::per_element());
    for (std::size_t i = 0; i < 6; ++i) {
      BOOST_TEST(same_gradient(outcomes[r].gradients[i], outcomes[0].gradients[i]));
    }
  }
}

/// What no rank has a gradient of does not travel, and has none.
BOOST_AUTO_TEST_CASE(a_tower_that_is_left_out_sends_nothing) {
  std::vector<Travelled> travelled(2);
  run_in_threads(
      2,
      [&](Communicator& ranks) {
        Watched watched(ranks, kNothing, into(travelled[static_cast<std::size_t>(ranks.rank())]));
        const ClipSetup setup(8);
        begin_random_step(1, 2);
        cached_step(setup.towers(), [](std::span<const Variable> r) { return ops::sum(ops::multiply(r[0], r[0])); },
                    {.cut = {2}, .allow_unused = true, .communicator = &watched, .reduction = {true, 200}});
        for (const Parameter& p : setup.text.parameters()) require(!p.gradient().defined(), "a gradient of nothing");
        for (const Parameter& p : setup.image.parameters()) require(p.gradient().defined(), "a gradient is missing");
      },
      kLimit);
  for (const Travelled& own : travelled) {
    BOOST_TEST(own.elements() == (std::vector<std::int64_t>{28, 7, 35}), boost::test_tools::per_element());
  }
}

BOOST_AUTO_TEST_SUITE_END()
