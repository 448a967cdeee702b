#include <boost/test/unit_test.hpp>

#include <array>
#include <chrono>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "gradcache_checks.h"
#include "ranks.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/core/allocator.h"
#include "tapecache/core/forward_context.h"

using namespace tapecache;
using namespace tapecache::gradcache;
using namespace tapecache::losses;
using namespace tapecache::testing;

namespace {

/// In backward: where an encoder is forwarded again, that of the tower whose gradients travel first or of the other, or
/// between the derivatives of a layer and the one before it.
enum class Place { kForward, kSecondForward, kLaterForward, kDerivative, kLoss, kHook };
constexpr Place kPlaces[] = {Place::kForward,    Place::kSecondForward, Place::kLaterForward,
                             Place::kDerivative, Place::kLoss,          Place::kHook};
enum class Fault { kException, kOutOfMemory, kLate };

constexpr int kRanks = 3, kFaulty = 1;

void strike(Fault fault) {
  if (fault == Fault::kException) throw ValueError("the milk is sour");
  if (fault == Fault::kOutOfMemory) throw OutOfMemory("no room for milk", 1, 2, 3);
  std::this_thread::sleep_for(std::chrono::milliseconds(1200));
}

/// Calls `at` in its derivative.
Variable paused(const Variable& x, const std::function<void()>& at) {
  return record("paused", x.value().clone(), {x}, {}, [call = &at](Backward& context) {
    (*call)();
    context.pass(0, context.output_gradient());
  });
}

/// A step of which rank 1 fails at a place; how often it is to fail there.
StepResult faulty_step(Communicator& ranks, const ClipSetup& setup, Place place, Fault fault, StepOptions options,
                       int times = 1000000) {
  int left = ranks.rank() == kFaulty ? times : 0;
  const auto at = [&](Place here) {
    if (here == place && left > 0) {
      --left;
      strike(fault);
    }
  };
  const Slice slice(ranks.rank(), {{5, 3, 4}, {2, 6, 4}});
  const auto text = [&](const Tensor& x) {
    at(forward_context().recompute ? Place::kSecondForward : Place::kForward);
    return setup.text(x);
  };
  const std::function<void()> in_derivative = [&] { at(Place::kDerivative); };
  const auto image = [&](const Tensor& x) {
    if (forward_context().recompute) at(Place::kLaterForward);
    const Encoder& e = setup.image;
    const Variable hidden = ops::dropout(ops::tanh(ops::linear(x, e.w1, e.b1)), e.dropout);
    return ops::l2_normalize(ops::dropout(ops::linear(paused(hidden, in_derivative), e.w2), e.dropout));
  };
  const Loss loss = [&](const Representations& r) {
    at(Place::kLoss);
    return setup.loss()(r);
  };
  Parameter hooked = setup.text.w1;
  hooked.clear_hooks();
  hooked.add_hook([&](Parameter&) { at(Place::kHook); });
  const std::vector<Tower> towers{{"image", slice(0, setup.images), image}, {"text", slice(1, setup.texts), text}};
  options.communicator = &ranks;
  const auto unhook = [&] { hooked.clear_hooks(); };
  try {
    StepResult result = cached_step(towers, loss, options);
    unhook();
    return result;
  } catch (...) {
    unhook();
    throw;
  }
}

struct Ending {
  std::string text;
  bool out_of_memory = false, communication = false;
  bool gradients_as_before = true, random_as_before = true;
};

/// How each rank ends a step in which rank 1 fails; that gradients are as before, and the group of use again.
std::vector<Ending> endings_of(Place place, Fault fault, const StepOptions& options, std::chrono::milliseconds limit) {
  std::vector<Ending> endings(kRanks);
  run_in_threads(
      kRanks,
      [&](Communicator& ranks) {
        Ending& ending = endings[static_cast<std::size_t>(ranks.rank())];
        const ClipSetup setup(12, DType::kFloat64, 0.2);
        begin_random_step(1, 2);
        // What was there before.
        const Slice slice(ranks.rank(), {{4, 4, 4}});
        cached_step(std::vector<Tower>{{"image", slice(0, setup.images), setup.image},
                                       {"text", slice(1, setup.texts), setup.text}},
                    setup.loss(), {.cut = {2}, .communicator = &ranks});
        std::vector<Tensor> before;
        for (const Parameter& p : setup.parameters()) before.push_back(p.gradient().clone());
        const RandomState random = random_state();
        try {
          faulty_step(ranks, setup, place, fault, options);
          ending.text = "done";
        } catch (const OutOfMemory& error) {
          ending = {error.what(), true};
        } catch (const distributed::CommunicationError& error) {
          ending = {error.what(), false, true};
        } catch (const Error& error) {
          ending = {error.what()};
        }
        for (std::size_t i = 0; i < before.size(); ++i) {
          ending.gradients_as_before =
              ending.gradients_as_before && same_gradient(setup.parameters()[i].gradient(), before[i]);
        }
        ending.random_as_before = random_state() == random;
        if (!ending.communication) {
          faulty_step(ranks, setup, place, fault, options, 0);
        }
      },
      limit);
  return endings;
}

constexpr ReductionOptions kReductions[] = {{true, 1}, {true, 300}, {false, 1}};

std::vector<std::pair<Place, Fault>> each_fault() {
  std::vector<std::pair<Place, Fault>> all;
  for (const Place place : kPlaces) {
    for (const Fault fault : {Fault::kException, Fault::kOutOfMemory}) all.emplace_back(place, fault);
  }
  return all;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(distributed_faults)

BOOST_AUTO_TEST_CASE(what_fails_on_one_rank_fails_on_all_and_leaves_gradients) {
  for (const ReductionOptions& reduction : kReductions) {
    for (const auto& [place, fault] : each_fault()) {
      BOOST_TEST_CONTEXT("place " << static_cast<int>(place) << ", fault " << static_cast<int>(fault) << ", buckets of "
                                  << reduction.bucket_bytes) {
        const std::vector<Ending> endings = endings_of(place, fault, {.cut = {2}, .reduction = reduction}, kLimit);
        const std::string text = fault == Fault::kException ? "the milk is sour" : "no room for milk";
        for (int r = 0; r < kRanks; ++r) {
          const Ending& ending = endings[static_cast<std::size_t>(r)];
          BOOST_TEST(ending.text == (r == kFaulty ? text : "cached_step: rank 1 of 3: " + text));
          BOOST_TEST(ending.out_of_memory == (fault == Fault::kOutOfMemory));
          BOOST_TEST(ending.gradients_as_before);
          BOOST_TEST(ending.random_as_before);
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(a_late_rank_ends_the_step_of_all_within_the_limit) {
  for (const Place place : kPlaces) {
    BOOST_TEST_CONTEXT("place " << static_cast<int>(place)) {
      const auto begun = std::chrono::steady_clock::now();
      const std::vector<Ending> endings =
          endings_of(place, Fault::kLate, {.cut = {12}, .reduction = kReductions[0]}, std::chrono::milliseconds(300));
      BOOST_TEST((std::chrono::steady_clock::now() - begun < std::chrono::seconds(20)));
      for (const Ending& ending : endings) {
        BOOST_TEST(ending.communication);
        BOOST_TEST(contains(ending.text, "for rank 1"), ending.text);
        BOOST_TEST(ending.gradients_as_before);
        BOOST_TEST(ending.random_as_before);
      }
    }
  }
}

/// The rank that runs out of memory gets by with smaller chunks, and so all make theirs smaller.
BOOST_AUTO_TEST_CASE(all_try_again_where_one_runs_out_of_memory) {
  for (const Place place : kPlaces) {
    if (place == Place::kHook) continue;  // after which there are no more tries
    std::vector<std::int64_t> retries(kRanks, -1);
    std::array<bool, kRanks> same{};
    run_in_threads(
        kRanks,
        [&](Communicator& ranks) {
          const ClipSetup setup(12, DType::kFloat64, 0.2);
          begin_random_step(1, 2);
          const StepOptions options{.cut = {4}, .retry_smaller_chunks = true, .reduction = kReductions[0]};
          const StepResult result = faulty_step(ranks, setup, place, Fault::kOutOfMemory, options, 2);
          std::vector<Tensor> found;
          for (Parameter p : setup.parameters()) {
            found.push_back(p.gradient());
            p.clear_gradient();
          }
          begin_random_step(1, 2);
          faulty_step(ranks, setup, place, Fault::kOutOfMemory, options, 0);
          std::vector<Tensor> expected;
          for (const Parameter& p : setup.parameters()) expected.push_back(p.gradient());
          const auto r = static_cast<std::size_t>(ranks.rank());
          retries[r] = result.retries;
          same[r] = distance(found, expected) <= 1e-12;
        },
        kLimit);
    for (std::size_t r = 0; r < kRanks; ++r) {
      BOOST_TEST(retries[r] == 2);
      BOOST_TEST(same[r]);
    }
  }
}

/// Whichever rank it is that has no memory, and for what: the exchange and the reduction too.
BOOST_AUTO_TEST_CASE(every_allocation_that_fails_is_every_ranks) {
  constexpr int kTwo = 2;
  bool failed = true;
  int thrown = 0;
  for (std::uint64_t number = 1; failed; ++number) {
    std::vector<std::string> texts(kTwo);
    std::array<bool, kTwo> out_of_memory{}, as_before{};
    run_in_threads(
        kTwo,
        [&](Communicator& ranks) {
          const auto r = static_cast<std::size_t>(ranks.rank());
          const ClipSetup setup(8, DType::kFloat64, 0.2);
          const Slice slice(ranks.rank(), {{5, 3}, {2, 6}});
          const std::vector<Tower> towers{{"image", slice(0, setup.images), with_size(setup.image, "size", 0.1)},
                                          {"text", slice(1, setup.texts), setup.text}};
          const StepOptions options{.cut = {3}, .communicator = &ranks, .reduction = kReductions[0]};
          begin_random_step(1, 2);
          ranks.barrier();
          if (r == 0) allocator().set_failing(number);
          ranks.barrier();
          try {
            cached_step(towers, setup.loss(), options);
          } catch (const OutOfMemory& error) {
            out_of_memory[r] = true;
            texts[r] = error.what();
          } catch (const std::exception& error) {
            texts[r] = error.what();
          }
          ranks.barrier();
          if (r == 0) failed = allocator().set_failing(0) == 0;
          bool none = true;
          for (const Parameter& p : setup.parameters()) none = none && !p.gradient().defined();
          as_before[r] = none == out_of_memory[r];
          ranks.barrier();
        },
        kLimit);
    thrown += out_of_memory[0] ? 1 : 0;
    BOOST_TEST_CONTEXT("allocation " << number << ": " << texts[0] << "; " << texts[1]) {
      BOOST_TEST(out_of_memory[0] == out_of_memory[1]);
      BOOST_TEST(as_before[0]);
      BOOST_TEST(as_before[1]);
    }
  }
  BOOST_TEST(thrown > 100);
}

BOOST_AUTO_TEST_CASE(a_nan_of_one_rank_refuses_the_step_on_all_alike) {
  for (const bool in_cache : {false, true}) {
    const Program program = [=](Communicator* ranks, const Slice& slice) {
      const ClipSetup setup(9, DType::kFloat64, 0.2);
      Tensor images = setup.images.clone();
      if (!in_cache) images.mutable_data<double>()[5 * 5 + 1] = std::numeric_limits<double>::quiet_NaN();
      const std::vector<Tower> towers{{"image", slice(0, images), setup.image},
                                      {"text", slice(1, setup.texts), setup.text}};
      const Loss loss = [clip = setup.loss(), in_cache](const Representations& r) {
        // Finite, with a gradient that is not.
        return in_cache ? ops::add(clip(r), ops::sum(ops::sqrt(ops::scale(r[0], 0.0)))) : clip(r);
      };
      return Run{cached_step(towers, loss, {.cut = {2}, .communicator = ranks}), setup.parameters()};
    };
    const Outcome alone = outcome_of(program, nullptr, {});
    BOOST_TEST((alone.result.status == (in_cache ? StepStatus::kNonFiniteCache : StepStatus::kNonFiniteLoss)));
    for (const int size : {2, 3}) {
      for (const Outcome& found : outcomes_of(program, size, {uneven(9, size)})) {
        BOOST_TEST((found.result.status == alone.result.status));
        // One process knows the chunk as well.
        BOOST_TEST(contains(alone.result.message, found.result.message), found.result.message);
        BOOST_TEST((found.random == alone.random));
        for (const Tensor& gradient : found.gradients) BOOST_TEST(!gradient.defined());
      }
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
