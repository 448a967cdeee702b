#include <boost/test/unit_test.hpp>

#include <functional>
#include <string>
#include <vector>

#include "gradcache_checks.h"
#include "halves.h"
#include "ranks.h"
#include "tapecache/gradcache/cached.h"

using namespace tapecache;
using namespace tapecache::gradcache;
using namespace tapecache::losses;
using namespace tapecache::testing;

namespace {

/// What each of two ranks says of a step in which they differ.
std::vector<std::string> differences(
    const std::function<StepResult(Communicator& ranks, const ClipSetup& setup)>& step) {
  std::vector<std::string> texts(2, "done");
  run_in_threads(
      2,
      [&](Communicator& ranks) {
        const ClipSetup setup(8, DType::kFloat64, 0.2);
        begin_random_step(1, 2);
        try {
          step(ranks, setup);
        } catch (const ValueError& error) {
          texts[static_cast<std::size_t>(ranks.rank())] = error.what();
        }
        for (const Parameter& p : setup.parameters()) require(!p.gradient().defined(), "a gradient is left");
        ranks.barrier();
      },
      kLimit);
  BOOST_TEST(texts[0] == texts[1]);
  return texts;
}

}  // namespace

/// What ranks do not have in common.
BOOST_AUTO_TEST_SUITE(distributed_differences)

BOOST_AUTO_TEST_CASE(what_differs_is_named_before_anything_is_added) {
  const auto check = [](const std::string& expected, const auto& step) {
    BOOST_TEST(differences(step)[0] == expected);
  };
  const auto check_option = [&](const std::string& expected, const std::function<void(StepOptions&, bool)>& change) {
    check("cached_step: rank 1 of 2 has another " + expected, [&](Communicator& ranks, const ClipSetup& setup) {
      StepOptions options{.cut = {2}, .communicator = &ranks};
      change(options, ranks.rank() == 1);
      return cached_step(halves(ranks, setup), setup.loss(), options);
    });
  };
  check_option("scale than rank 0: 2.5 in the place of 1", [](auto& o, bool other) { o.scale = other ? 2.5 : 1; });
  check_option("reproducible_block than rank 0: 2 in the place of 1",
               [](auto& o, bool other) { o.reproducible_block = other ? 2 : 1; });
  check_option("autocast than rank 0: bfloat16 in the place of float32",
               [](auto& o, bool other) { o.autocast = other ? DType::kBFloat16 : DType::kFloat32; });
  check_option("reproducible_segments than rank 0: 2 in the place of 4",
               [](auto& o, bool other) { o.reproducible_segments = other ? 2 : 4; });
  check_option("shared_loss than rank 0: true in the place of false",
               [](auto& o, bool other) { o.shared_loss = other; });
  check_option("reduction.bucket_bytes than rank 0: 1000 in the place of 16777216", [](auto& o, bool other) {
    if (other) o.reduction.bucket_bytes = 1000;
  });
  check_option("allow_unused than rank 0: true in the place of false",
               [](auto& o, bool other) { o.allow_unused = other; });
  check_option("retry_smaller_chunks than rank 0: true in the place of false",
               [](auto& o, bool other) { o.retry_smaller_chunks = other; });
  check("cached_step: rank 1 of 2 has another number of towers than rank 0: 1 in the place of 2",
        [](Communicator& ranks, const ClipSetup& setup) {
          const std::vector<Tower> towers = halves(ranks, setup);
          return cached_step(std::span(towers).first(ranks.rank() == 0 ? 2 : 1), setup.loss(),
                             {.cut = {2}, .communicator = &ranks});
        });
  check("cached_step: rank 1 of 2 is in another random step than rank 0: 3 in the place of 2",
        [](Communicator& ranks, const ClipSetup& setup) {
          begin_random_step(1, static_cast<std::uint32_t>(2 + ranks.rank()));
          return cached_step(halves(ranks, setup), setup.loss(), {.cut = {2}, .communicator = &ranks});
        });
  check("cached_step: rank 1 of 2 has another seed of random numbers than rank 0: 1 in the place of 0",
        [](Communicator& ranks, const ClipSetup& setup) {
          begin_random_step(static_cast<std::uint64_t>(ranks.rank()), 2);
          return cached_step(halves(ranks, setup), setup.loss(), {.cut = {2}, .communicator = &ranks});
        });
  check("cached_step: rank 1 of 2 has towers of other names than rank 0",
        [](Communicator& ranks, const ClipSetup& setup) {
          const std::vector<Tower> towers = halves(ranks, setup);
          const std::vector<Tower> turned{towers[1], towers[0]};
          return cached_step(ranks.rank() == 0 ? towers : turned, setup.loss(), {.cut = {2}, .communicator = &ranks});
        });
  check("direct_step: rank 1 of 2 calls another step than rank 0", [](Communicator& ranks, const ClipSetup& setup) {
    if (ranks.rank() == 0) {
      try {
        return cached_step(halves(ranks, setup), setup.loss(), {.cut = {2}, .communicator = &ranks});
      } catch (const ValueError&) {
        throw ValueError("direct_step: rank 1 of 2 calls another step than rank 0");
      }
    }
    return direct_step(halves(ranks, setup), setup.loss(), {.communicator = &ranks});
  });
  check(
      "cached_step: rank 1 of 2 has \"representations of 'text', float64 [3] a sample\", but rank 0 "
      "\"representations of 'text', float64 [4] a sample\"",
      [](Communicator& ranks, const ClipSetup& setup) {
        const Encoder other(20, DType::kFloat64, 0.2, 5, 7, ranks.rank() == 0 ? 4 : 3);
        std::vector<Tower> towers = halves(ranks, setup);
        towers[1] = Tower("text", setup.texts.slice(0, 4), other);
        return cached_step(towers, setup.loss(), {.cut = {2}, .communicator = &ranks});
      });
  check(
      "cached_step: rank 1 of 2 has \"parameter 'b1' of an encoder, float64 [9]\", but rank 0 \"parameter 'b1' of "
      "an encoder, float64 [7]\"",
      [](Communicator& ranks, const ClipSetup& setup) {
        const Encoder other(10, DType::kFloat64, 0.2, 5, ranks.rank() == 0 ? 7 : 9);
        std::vector<Tower> towers = halves(ranks, setup);
        towers[0] = Tower("image", setup.images.slice(0, 4), other);
        return cached_step(towers, setup.loss(), {.cut = {2}, .communicator = &ranks});
      });
  check(
      "cached_step: rank 1 of 2 has nothing more, but rank 0 \"parameter 'w2' of an encoder or the loss, float64 [4, "
      "7]\"",
      [](Communicator& ranks, const ClipSetup& setup) {
        const Parameter mine("w2", random_values({4, 7}, 1));
        const Loss loss = [&](const Representations& r) {
          const Variable own = setup.loss()(r);
          return ranks.rank() == 0 ? ops::add(own, ops::scale(ops::sum(mine), 0.0)) : own;
        };
        return cached_step(halves(ranks, setup), loss, {.cut = {2}, .communicator = &ranks});
      });
}

/// A last bit, of an encoder's and of the loss's.
BOOST_AUTO_TEST_CASE(weights_that_differ_are_named_in_the_first_step) {
  const auto nudge = [](const Parameter& p) {
    Tensor values = p.value();
    double& last = values.mutable_data<double>()[values.numel() - 1];
    last = std::nextafter(last, 2.0);
  };
  const auto check = [&](const std::string& name, const auto& pick) {
    for (const bool direct : {false, true}) {
      const std::string step = direct ? "direct_step" : "cached_step";
      const auto texts = differences([&](Communicator& ranks, const ClipSetup& setup) {
        if (ranks.rank() == 1) nudge(pick(setup));
        StepOptions options{.cut = {2}, .communicator = &ranks};
        return direct ? direct_step(halves(ranks, setup), setup.loss(), options.direct())
                      : cached_step(halves(ranks, setup), setup.loss(), options);
      });
      BOOST_TEST(texts[0] == step + ": rank 1 of 2 has other values of parameter '" + name + "' than rank 0");
    }
  };
  check("w2", [](const ClipSetup& setup) { return setup.image.w2; });
  check("b1", [](const ClipSetup& setup) { return setup.text.b1; });
  check("log_scale", [](const ClipSetup& setup) { return setup.log_scale; });
}

BOOST_AUTO_TEST_CASE(weights_are_looked_at_again_where_one_rank_alone_changed_them) {
  std::vector<std::string> texts(2);
  std::vector<std::vector<int>> looked(2);
  run_in_threads(
      2,
      [&](Communicator& ranks) {
        const auto r = static_cast<std::size_t>(ranks.rank());
        const ClipSetup setup(8, DType::kFloat64, 0.2);
        int looks = 0;
        Watched watched(ranks, [&](const std::string&, const Tensor& of) {
          // A digest of each of 7 parameters.
          if (of.dtype() == DType::kInt64 && of.shape() == Shape{2, 7}) ++looks;
        });
        const auto step = [&] {
          begin_random_step(1, 2);
          looks = 0;
          cached_step(halves(ranks, setup), setup.loss(), {.cut = {2}, .communicator = &watched});
          looked[r].push_back(looks);
        };
        step();
        step();
        Parameter w1 = setup.image.w1;
        const auto change = [&](double factor) {
          double* const values = w1.mutable_value().mutable_data<double>();
          values[3] *= factor;
        };
        change(0.5);  // of all alike: as a step of an optimiser
        step();
        if (ranks.rank() == 1) change(1.0);  // the same values
        step();
        if (ranks.rank() == 1) change(2.0);
        try {
          step();
        } catch (const ValueError& error) {
          texts[r] = error.what();
        }
      },
      kLimit);
  for (std::size_t r = 0; r < 2; ++r) {
    BOOST_TEST((looked[r] == std::vector<int>{1, 0, 0, 1}));
    BOOST_TEST(texts[r] == "cached_step: rank 1 of 2 has other values of parameter 'w1' than rank 0");
  }
}

BOOST_AUTO_TEST_CASE(another_loss_is_named) {
  const auto texts = differences([](Communicator& ranks, const ClipSetup& setup) {
    const Loss loss = [&](const Representations& r) { return ops::scale(setup.loss()(r), 1.0 + ranks.rank()); };
    return cached_step(halves(ranks, setup), loss, {.cut = {2}, .communicator = &ranks});
  });
  BOOST_TEST(contains(texts[0], "cached_step: the loss of rank 1 of 2 is"), texts[0]);
}

BOOST_AUTO_TEST_CASE(wrong_calls_of_one_rank_are_told_to_all) {
  std::vector<std::string> texts(2);
  run_in_threads(
      2,
      [&](Communicator& ranks) {
        const ClipSetup setup(8);
        const auto r = static_cast<std::size_t>(ranks.rank());
        const auto refused = [&](const StepOptions& options) {
          try {
            cached_step(halves(ranks, setup), setup.loss(), options);
          } catch (const Error& error) {
            texts[r] += std::string(error.what()) + "\n";
          }
        };
        StepOptions options{.cut = {ranks.rank() == 1 ? 0 : 2}, .communicator = &ranks};
        refused(options);
        options.cut = {2};
        options.deferred = true;
        refused(options);
      },
      kLimit);
  const std::string own = "cached_step: chunk size 0 for tower 'image', expected at least 1\n",
                    deferred =
                        "cached_step: a deferred step cannot have a communicator: each rank must know how it went\n";
  BOOST_TEST(texts[1] == own + deferred);
  BOOST_TEST(texts[0] == "cached_step: rank 1 of 2: " + own + deferred);
}

BOOST_AUTO_TEST_CASE(a_tower_needs_samples_on_some_rank) {
  const auto texts = differences([](Communicator& ranks, const ClipSetup& setup) {
    std::vector<Tower> towers = halves(ranks, setup);
    towers[1] = Tower("text", setup.texts.slice(0, 0), setup.text);
    return cached_step(towers, setup.loss(), {.cut = {2}, .communicator = &ranks});
  });
  BOOST_TEST(texts[0] == "cached_step: tower 'text' has no samples");
}

/// Masks would be those of other samples.
BOOST_AUTO_TEST_CASE(sub_batches_must_begin_where_those_of_lower_ranks_end) {
  const auto texts = differences([](Communicator& ranks, const ClipSetup& setup) {
    const Slice slice(ranks.rank(), {{4, 4}});
    std::vector<CachedBatch> batches{{"image", {cached(setup.image, slice(0, setup.images))}},
                                     {"text", {cached(setup.text, slice(0, setup.texts))}}};
    return cached_backward(batches, setup.loss(), {.communicator = &ranks});
  });
  BOOST_TEST(
      texts[0] ==
      "cached_backward: tower 'image' of rank 1 of 2 begins with sample 0, expected 4: those of lower ranks come "
      "first (CachedOptions::first_sample)");
}

BOOST_AUTO_TEST_SUITE_END()
