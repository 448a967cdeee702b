#include <boost/test/unit_test.hpp>

#include <functional>
#include <string>
#include <vector>

#include "gradcache_checks.h"
#include "ranks.h"
#include "tapecache/gradcache/step.h"
#include "tapecache/losses/losses.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"

using namespace tapecache;
using namespace tapecache::gradcache;
using namespace tapecache::losses;
using namespace tapecache::testing;

namespace {

enum class LossKind { kInfoNce, kClip, kSiglip, kSupCon, kMaxsim };

/// What a shared loss is told that the whole one is not.
struct Way {
  Tiles tiles = std::nullopt;
  SharedCandidates candidates = SharedCandidates::kAutomatic;
  DType autocast = DType::kFloat32;
};

/// A step whose loss is the whole one without ranks, and shared among them with.
Program shared_step(LossKind kind, std::int64_t samples, std::int64_t step, DType dtype, bool direct,
                    const Way& way = {}) {
  return [=](Communicator* ranks, const Slice& slice) {
    const Encoder query(10, dtype, 0.2), target(20, dtype, 0.2);
    const Parameter scale("scale", Tensor::full({}, 1.1, dtype)), bias("bias", Tensor::full({}, -0.7, dtype));
    const std::vector<Tower> towers{
        {"query", slice(0, random_values({samples, 5}, 1, dtype)), with_size(query, "size", 0.2)},
        {"target", slice(1, random_values({samples * step, 5}, 2, dtype)), target}};
    Tensor classes = Tensor::zeros({samples}, DType::kInt64);
    for (std::int64_t i = 0; i < samples; ++i) classes.mutable_data<std::int64_t>()[i] = i % 3;
    const Tensor labels = slice(0, classes);
    const Loss loss = [=](std::span<const Variable> r) {
      const Tiles tiles = ranks ? way.tiles : Tiles();
      if (kind == LossKind::kSupCon) {
        // The other tower's part, so that each has a gradient.
        const Variable both = ops::multiply(r[0], r[1]);
        return sup_con(both, labels, {.scale = scale, .communicator = ranks, .candidates = way.candidates});
      }
      if (kind == LossKind::kMaxsim) {
        const auto tokens = [](const Variable& x) { return ops::reshape(x, {x.size(0), 2, x.size(1) / 2}); };
        return maxsim_loss(tokens(r[0]), {}, tokens(r[1]), {},
                           {.scale = scale, .tiles = tiles, .communicator = ranks, .candidates = way.candidates});
      }
      if (kind == LossKind::kInfoNce) {
        return info_nce(r[0], r[1],
                        {.scale = scale, .tiles = tiles, .communicator = ranks, .candidates = way.candidates});
      }
      const Scale log = Scale::from_log(scale);
      if (kind == LossKind::kClip) {
        return clip_loss(r[0], r[1],
                         {.scale = log, .tiles = tiles, .communicator = ranks, .candidates = way.candidates});
      }
      return siglip_loss(
          r[0], r[1],
          {.scale = log, .bias = bias, .tiles = tiles, .communicator = ranks, .candidates = way.candidates});
    };
    const StepOptions options{
        .cut = {2}, .scale = 3, .autocast = way.autocast, .communicator = ranks, .shared_loss = ranks != nullptr};
    Run run{direct ? direct_step(towers, loss, options.direct()) : cached_step(towers, loss, options),
            joined({query.parameters(), target.parameters(), {scale, bias}})};
    run.result.representations.clear();  // of this rank alone
    return run;
  };
}

std::vector<std::int64_t> times(std::vector<std::int64_t> counts, std::int64_t factor) {
  for (std::int64_t& count : counts) count *= factor;
  return counts;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(distributed_shared)

BOOST_AUTO_TEST_CASE(shared_losses_are_the_whole_ones) {
  for (const LossKind kind :
       {LossKind::kInfoNce, LossKind::kClip, LossKind::kSiglip, LossKind::kSupCon, LossKind::kMaxsim}) {
    for (const std::int64_t samples : {1, 11}) {
      if (samples == 1 && kind == LossKind::kSupCon) continue;  // of no two labels
      for (const std::int64_t step : {1, 3}) {
        if (step > 1 && kind != LossKind::kInfoNce && kind != LossKind::kMaxsim) continue;
        for (const bool direct : {false, true}) {
          const Program program = shared_step(kind, samples, step, DType::kFloat64, direct);
          const Outcome alone = outcome_of(program, nullptr, {});
          for (const int size : {1, 2, 3, 4}) {
            BOOST_TEST_CONTEXT("loss " << static_cast<int>(kind) << ", " << samples << " samples of " << step) {
              const std::vector<std::int64_t> counts = uneven(samples, size);
              check_as_alone(outcomes_of(program, size, {counts, times(counts, step)}), alone, 1e-12);
            }
          }
        }
      }
    }
  }
}

/// In f32 and with encoders in bf16 as well.
BOOST_AUTO_TEST_CASE(steps_in_tiles_and_in_a_ring) {
  for (const LossKind kind :
       {LossKind::kInfoNce, LossKind::kClip, LossKind::kSiglip, LossKind::kSupCon, LossKind::kMaxsim}) {
    for (const SharedCandidates candidates : {SharedCandidates::kGathered, SharedCandidates::kRing}) {
      for (const DType dtype : {DType::kFloat64, DType::kFloat32, DType::kBFloat16}) {
        Way way{ops::TileOptions{3, 2}, candidates};
        if (dtype == DType::kBFloat16) way.autocast = dtype;
        const DType own = dtype == DType::kFloat64 ? dtype : DType::kFloat32;
        const Program program = shared_step(kind, 13, 1, own, false, way);
        const Outcome alone = outcome_of(program, nullptr, {});
        for (const int size : {1, 4, 5}) {
          BOOST_TEST_CONTEXT("loss " << static_cast<int>(kind) << " in " << name(dtype)) {
            const double tolerance = dtype == DType::kFloat64 ? 1e-12 : 1e-5;
            check_as_alone(outcomes_of(program, size, {uneven(13, size)}), alone, tolerance);
          }
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(large_logits_do_not_overflow) {
  const Program program = [](Communicator* ranks, const Slice& slice) {
    const Encoder query(10, DType::kFloat32, 0), target(20, DType::kFloat32, 0);
    const std::vector<Tower> towers{{"query", slice(0, random_values({9, 5}, 1, DType::kFloat32)), query},
                                    {"target", slice(1, random_values({9, 5}, 2, DType::kFloat32)), target}};
    const Loss loss = [=](std::span<const Variable> r) {
      return clip_loss(r[0], r[1], {.scale = 100.0, .communicator = ranks});
    };
    Run run{cached_step(towers, loss, {.cut = {2}, .communicator = ranks, .shared_loss = ranks != nullptr}),
            joined({query.parameters(), target.parameters()})};
    run.result.representations.clear();
    return run;
  };
  const Outcome alone = outcome_of(program, nullptr, {});
  check_as_alone(outcomes_of(program, 3, {uneven(9, 3)}), alone, 1e-5);
}

/// What each rank catches of a step with this loss, in which something fails; no rank may be left with a gradient.
std::vector<std::string> messages_of(const std::vector<std::vector<std::int64_t>>& shares, std::uint64_t seed,
                                     const std::function<Variable(Communicator&, std::span<const Variable>)>& loss) {
  const int size = static_cast<int>(shares.front().size());
  std::vector<std::string> texts(shares.front().size());
  BOOST_CHECK_THROW(run_in_threads(
                        size,
                        [&](Communicator& ranks) {
                          const ClipSetup setup(seed);
                          const Slice slice(ranks.rank(), shares);
                          try {
                            cached_step(std::vector<Tower>{{"image", slice(0, setup.images), setup.image},
                                                           {"text", slice(1, setup.texts), setup.text}},
                                        [&](std::span<const Variable> r) { return loss(ranks, r); },
                                        {.cut = {2}, .communicator = &ranks, .shared_loss = true});
                          } catch (const std::exception& error) {
                            texts[static_cast<std::size_t>(ranks.rank())] = error.what();
                            for (const Parameter& p : setup.parameters()) {
                              require(!p.gradient().defined(), "a gradient is left");
                            }
                            throw;
                          }
                        },
                        kLimit),
                    Error);
  return texts;
}

BOOST_AUTO_TEST_CASE(pairs_must_be_with_their_queries, *boost::unit_test::precondition(on_threads)) {
  const std::vector<std::string> texts = messages_of(
      {{4, 4}, {5, 3}}, 8,
      [](Communicator& ranks, std::span<const Variable> r) { return info_nce(r[0], r[1], {.communicator = &ranks}); });
  for (const std::string& text : texts) {
    BOOST_TEST(text.find("info_nce: rank 0 has 5 targets for 4 queries, expected 1 for each") != std::string::npos,
               text);
  }
}

/// A loss without a communicator would be over each rank's own rows, and lose all other negatives.
BOOST_AUTO_TEST_CASE(a_loss_that_is_not_shared_is_found_out, *boost::unit_test::precondition(on_threads)) {
  const std::vector<std::string> texts =
      messages_of({{4, 4}}, 8, [](Communicator&, std::span<const Variable> r) { return info_nce(r[0], r[1]); });
  for (const std::string& text : texts) {
    BOOST_TEST(text.find("the loss of rank 1 of 2 is") != std::string::npos, text);
    BOOST_TEST(text.find("all must take the same one") != std::string::npos, text);
  }
}

BOOST_AUTO_TEST_CASE(what_fails_in_a_shared_loss_ends_the_group, *boost::unit_test::precondition(on_threads)) {
  const std::vector<std::string> texts =
      messages_of({{3, 3, 3}}, 9, [](Communicator& ranks, std::span<const Variable> r) {
        if (ranks.rank() == 2) throw ValueError("the milk is sour");
        return info_nce(r[0], r[1], {.communicator = &ranks});
      });
  BOOST_TEST(texts[2] == "the milk is sour");
  for (const int r : {0, 1}) {
    const std::string& text = texts[static_cast<std::size_t>(r)];
    BOOST_TEST(text.find("rank 2 gave up: the milk is sour") != std::string::npos, text);
  }
}

BOOST_AUTO_TEST_CASE(refuses_what_the_whole_losses_refuse, *boost::unit_test::precondition(on_threads)) {
  run_in_threads(1, [](Communicator& ranks) {
    const Variable a(random_values({3, 4}, 1)), b(random_values({3, 4}, 2)), c(random_values({3, 5}, 2));
    BOOST_CHECK_EXCEPTION(info_nce(a, b, {.label_smoothing = 1, .communicator = &ranks}), ValueError,
                          says({"info_nce", "label_smoothing", "1"}));
    BOOST_CHECK_EXCEPTION(info_nce(a, c, {.communicator = &ranks}), ShapeError, says({"one width"}));
  });
  run_in_threads(1, [](Communicator& ranks) {
    const Variable a(random_values({3, 4}, 1)), b(random_values({3, 4}, 2));
    BOOST_CHECK_EXCEPTION(clip_loss(a, b, {.scale = 2, .hardness = -1, .communicator = &ranks}), ValueError,
                          says({"clip_loss", "hardness", "-1"}));
    BOOST_CHECK_EXCEPTION(
        siglip_loss(a, b, {.scale = 2, .bias = 0, .tiles = ops::TileOptions{.rows = 0}, .communicator = &ranks}),
        ValueError, says({"siglip_loss", "tiles", "0"}));
    const Tensor id = Tensor::from({1}, {1});
    BOOST_CHECK_EXCEPTION(info_nce(a, b, {.equal_targets = {.target_ids = id}, .communicator = &ranks}), ShapeError,
                          says({"info_nce", "target_ids"}));
    BOOST_CHECK_EXCEPTION(nt_xent(a, b, {.scale = Variable(), .communicator = &ranks}), ValueError,
                          says({"nt_xent", "scale"}));
    const Tensor guide = random_values({2, 3}, 3);
    BOOST_CHECK_EXCEPTION(gist_loss(a, b, guide, guide, {.communicator = &ranks}), ShapeError,
                          says({"gist_loss", "guide_queries", "[3, width]"}));
  });
}

BOOST_AUTO_TEST_SUITE_END()
