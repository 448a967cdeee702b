#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <boost/test/unit_test.hpp>

#include "rank_attack.h"
#include "tapecache/autograd/undo_log.h"
#include "tapecache/gradcache/cached.h"
#include "tapecache/ops/layout.h"

using namespace tapecache;
using namespace tapecache::gradcache;
using namespace tapecache::losses;
using namespace tapecache::testing;
using distributed::Communicator;

namespace {

using Views = std::span<const Variable>;

struct NamedLoss {
  const char* name;
  LossOfRank take;
};

Tensor ids(const Rank& rank, const Communicator* shared) {
  const Tensor all = Tensor::from(std::vector<std::int64_t>{1, 2, 3, 1, 4, 5, 2, 6, 4}, {Rank::kSamples});
  return shared ? rank.own(all) : all;
}

Scale scale_of(const Rank& rank) { return Scale::from_log(rank.setup.log_scale); }

/// Every loss of the library, those of several forms in each.
std::vector<NamedLoss> all_losses() {
  const auto clip = [](Views r, const Rank& rank, Communicator* shared) {
    return clip_loss(r[0], r[1], {.scale = scale_of(rank), .communicator = shared});
  };
  return {
      {"clip_loss", clip},
      {"clip_loss in tiles, in a ring",
       [](Views r, const Rank& rank, Communicator* shared) {
         return clip_loss(r[0], r[1],
                          {.scale = scale_of(rank),
                           .tiles = ops::TileOptions{2, 2},
                           .communicator = shared,
                           .candidates = SharedCandidates::kRing});
       }},
      {"info_nce",
       [](Views r, const Rank& rank, Communicator* shared) {
         return info_nce(r[0], r[1], {.scale = scale_of(rank), .communicator = shared});
       }},
      {"info_nce with every option, in a ring",
       [](Views r, const Rank& rank, Communicator* shared) {
         return info_nce(r[0], r[1],
                         {.scale = scale_of(rank),
                          .label_smoothing = 0.1,
                          .hardness = 0.5,
                          .equal_targets = {ids(rank, shared)},
                          .communicator = shared,
                          .candidates = SharedCandidates::kRing});
       }},
      {"siglip_loss",
       [](Views r, const Rank& rank, Communicator* shared) {
         return siglip_loss(r[0], r[1],
                            {.scale = scale_of(rank),
                             .bias = rank.bias,
                             .equal_targets = {.equal_rows = true},
                             .communicator = shared});
       }},
      {"nt_xent",
       [](Views r, const Rank& rank, Communicator* shared) {
         return nt_xent(r[0], r[1], {.scale = scale_of(rank), .communicator = shared});
       }},
      {"gist_loss",
       [](Views r, const Rank& rank, Communicator* shared) {
         const auto guide = [&](const Tensor& x) { return shared ? rank.own(x) : x; };
         return gist_loss(r[0], r[1], guide(rank.setup.images), guide(rank.setup.texts),
                          {.scale = scale_of(rank), .communicator = shared});
       }},
      {"matryoshka of clip_loss",
       [clip](Views r, const Rank& rank, Communicator* shared) {
         return matryoshka([&](Views part) { return clip(part, rank, shared); }, r, {.widths = {2, 4}});
       }},
      {"sup_con, in a ring",
       [](Views r, const Rank& rank, Communicator* shared) {
         const Variable sum = shared ? ops::scale(ops::sum(r[1]), 0.0) : ops::sum(r[1]);
         return ops::add(
             sup_con(r[0], ids(rank, shared),
                     {.scale = scale_of(rank), .communicator = shared, .candidates = SharedCandidates::kRing}),
             sum);
       }},
      {"maxsim_loss",
       [](Views r, const Rank& rank, Communicator* shared) {
         const auto tokens = [](const Variable& x) { return ops::reshape(x, {x.size(0), 2, 2}); };
         const Tensor all = Tensor::from(std::vector<std::uint8_t>(2 * Rank::kSamples, 1), {Rank::kSamples, 2});
         const Tensor mask = (shared ? rank.own(all) : all).to(DType::kBool);
         return maxsim_loss(tokens(r[0]), mask, tokens(r[1]), mask, {.scale = scale_of(rank), .communicator = shared});
       }},
  };
}

Loss loss_for(const NamedLoss& loss, const Rank& rank, Communicator* shared) {
  return [&loss, &rank, shared](Views r) { return loss.take(r, rank, shared); };
}

std::string named(const char* step, const NamedLoss& loss, bool shared) {
  return fmt::format("{} of two ranks, {}{}", step, shared ? "shared " : "", loss.name);
}

RankStep cached_of(const NamedLoss& loss, bool shared, const StepOptions& options, const char* name = "cached_step",
                   double tolerance = 0) {
  const auto of = [&loss, shared, options](const Rank& rank, Communicator& ranks) {
    StepOptions own = options;
    own.communicator = &ranks;
    own.shared_loss = shared;
    return [=, towers = rank.towers(), taken = loss_for(loss, rank, shared ? &ranks : nullptr)] {
      return cached_step(towers, taken, own);
    };
  };
  return {named(name, loss, shared), of, tolerance};
}

RankStep direct_of(const NamedLoss& loss, bool shared, const ReductionOptions& reduction) {
  const auto of = [&loss, shared, reduction](const Rank& rank, Communicator& ranks) {
    const DirectOptions options{.communicator = &ranks, .shared_loss = shared, .reduction = reduction};
    return [=, towers = rank.towers(), taken = loss_for(loss, rank, shared ? &ranks : nullptr)] {
      return direct_step(towers, taken, options);
    };
  };
  return {named("direct_step", loss, shared), of};
}

/// Each forwards its samples by itself, and has to tell the other where it cannot.
std::vector<CachedBatch> forwarded(std::span<const Tower> towers, std::int64_t first, Communicator& ranks) {
  try {
    std::vector<CachedBatch> batches;
    for (const Tower& tower : towers) {
      batches.push_back({tower.name(), {}});
      batches.back().chunks.push_back(cached(tower, {.first_sample = first}));
    }
    return batches;
  } catch (...) {
    ranks.fail("no memory");
    throw;
  }
}

/// The random draws and buffers of a forward that is done are the caller's to undo.
RankStep functional_of(const NamedLoss& loss, bool shared) {
  const auto of = [&loss, shared](const Rank& rank, Communicator& ranks) {
    return [=, &ranks, first = rank.begin, towers = rank.towers(),
            taken = loss_for(loss, rank, shared ? &ranks : nullptr)] {
      const RandomState random = random_state();
      UndoLog buffers;
      try {
        const std::vector<CachedBatch> batches = forwarded(towers, first, ranks);
        StepResult result = cached_backward(batches, taken, {.communicator = &ranks, .shared_loss = shared});
        buffers.keep();
        return result;
      } catch (...) {
        random_state() = random;
        throw;
      }
    };
  };
  return {named("cached_backward", loss, shared), of};
}

RankStep accumulated_of(const NamedLoss& loss) {
  const auto of = [&loss](const Rank& rank, Communicator& ranks) {
    const AccumulatedOptions options{.chunk_sizes = {2}, .communicator = &ranks};
    return [=, towers = rank.towers(), taken = loss_for(loss, rank, nullptr)] {
      return accumulated_step(towers, taken, options);
    };
  };
  return {named("accumulated_step", loss, false), of};
}

/// With a plan that is measured, and a self-check.
RankStep grad_cache_of(const NamedLoss& loss, bool shared) {
  const auto of = [&loss, shared](const Rank& rank, Communicator& ranks) {
    const StepOptions options{.cut = MemoryBudget{1 << 30}, .communicator = &ranks, .shared_loss = shared};
    const auto steps = std::make_shared<GradCache>(loss_for(loss, rank, shared ? &ranks : nullptr), options,
                                                   GradCache::SelfCheck{.every = 1, .samples = 4});
    return [steps, towers = rank.towers()] { return steps->step(towers); };
  };
  return {named("GradCache", loss, shared), of, 1e-12};
}

/// Gradients of one bucket, of several, and after backward.
constexpr ReductionOptions kReductions[] = {{true, 1 << 20}, {true, 300}, {false, 300}};

void attack_both(const RankStep& step, std::int64_t objects_stride) {
  BOOST_TEST(attack_ranks(step, Memory::kTensors, 17) > 5);
  BOOST_TEST(attack_ranks(step, Memory::kObjects, objects_stride) > 5);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(attack_ranks)

BOOST_AUTO_TEST_CASE(losses_that_each_rank_takes_of_all) {
  for (const NamedLoss& loss : all_losses()) attack_both(cached_of(loss, false, {.cut = {2}}), 197);
}

BOOST_AUTO_TEST_CASE(losses_that_ranks_share) {
  for (const NamedLoss& loss : all_losses()) {
    attack_both(cached_of(loss, true, {.cut = {2}}), 197);
  }
}

BOOST_AUTO_TEST_CASE(every_way_to_take_a_step) {
  const NamedLoss clip = all_losses().front();
  for (const bool shared : {false, true}) {
    for (const ReductionOptions& reduction : kReductions) attack_both(direct_of(clip, shared, reduction), 97);
    attack_both(cached_of(clip, shared, {.cut = {2}, .reduction = kReductions[1]}), 197);
    attack_both(cached_of(clip, shared, {.cut = MemoryPlan{{2}, 3}}, "cached_step that keeps tapes", 1e-12), 197);
    attack_both(
        cached_of(clip, shared, {.cut = {4}, .retry_smaller_chunks = true}, "cached_step that may halve chunks", 1e-12),
        197);
    attack_both(cached_of(clip, shared, {.cut = MemoryBudget{1 << 30}}, "cached_step within a budget", 1e-12), 197);
    attack_both(functional_of(clip, shared), 97);
    attack_both(grad_cache_of(clip, shared), 997);
  }
  attack_both(cached_of(clip, false, {.cut = {2}, .reproducible_segments = 2}, "cached_step of segments"), 197);
}

BOOST_AUTO_TEST_CASE(an_accumulated_step) {
  const NamedLoss clip = all_losses().front();
  attack_both(accumulated_of(clip), 97);
}

BOOST_AUTO_TEST_SUITE_END()
