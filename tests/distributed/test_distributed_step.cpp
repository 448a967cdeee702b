#include <boost/test/unit_test.hpp>

#include <cmath>
#include <string>
#include <vector>

#include "gradcache_checks.h"
#include "loss_table.h"
#include "ranks.h"
#include "small_model.h"
#include "tapecache/gradcache/cached.h"
#include "tapecache/gradcache/grad_cache.h"
#include "tapecache/losses/losses.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/reduce.h"
#include "tapecache/train/loss_scaler.h"
#include "tapecache/train/optimizer.h"

using namespace tapecache;
using namespace tapecache::gradcache;
using namespace tapecache::losses;
using namespace tapecache::testing;

namespace {

/// Both towers of a small CLIP, of this rank's samples.
std::vector<Tower> towers_of(const ClipSetup& setup, const Slice& slice) {
  return {{"image", slice(0, setup.images), setup.image}, {"text", slice(1, setup.texts), setup.text}};
}

/// A cached step of such a CLIP under these options.
Program clip_program(StepOptions options, double dropout = 0.3, DType dtype = DType::kFloat64) {
  return [=](Communicator* ranks, const Slice& slice) {
    const ClipSetup setup(13, dtype, dropout);
    StepOptions own = options;
    own.communicator = ranks;
    return Run{cached_step(towers_of(setup, slice), setup.loss(), own), setup.parameters()};
  };
}

}  // namespace

BOOST_AUTO_TEST_SUITE(distributed_step)

BOOST_AUTO_TEST_CASE(a_cached_step_is_that_of_one_process) {
  for (const std::int64_t chunk : {1, 3, 13}) {
    for (const double dropout : {0.0, 0.3}) check_ranks(clip_program({{chunk}}, dropout), {13, 13});
  }
}

BOOST_AUTO_TEST_CASE(a_direct_step_is_that_of_one_process) {
  const Program program = [](Communicator* ranks, const Slice& slice) {
    const ClipSetup setup(13, DType::kFloat64, 0.3);
    DirectOptions options;
    options.communicator = ranks;
    return Run{direct_step(towers_of(setup, slice), setup.loss(), options), setup.parameters()};
  };
  check_ranks(program, {13, 13});
}

BOOST_AUTO_TEST_CASE(f32_and_bf16_are_those_of_one_process_to_rounding) {
  check_ranks(clip_program({{3}}, 0.3, DType::kFloat32), {13, 13}, 1e-5);
  // In blocks, so that what is rounded to bf16 is the same sums.
  check_ranks(clip_program({.cut = {2}, .reproducible_block = 1, .autocast = DType::kBFloat16}, 0.3, DType::kFloat32),
              {13, 13}, 1e-5);
}

BOOST_AUTO_TEST_CASE(towers_have_shares_of_their_own) {
  const Program program = clip_program({{2}});
  const Outcome alone = outcome_of(program, nullptr, {});
  check_as_alone(outcomes_of(program, 2, {{13, 0}, {4, 9}}), alone, 1e-12);
  check_as_alone(outcomes_of(program, 3, {{13, 0, 0}, {0, 1, 12}}), alone, 1e-12);
  check_as_alone(outcomes_of(program, 4, {{0, 0, 13, 0}, {4, 4, 4, 1}}), alone, 1e-12);
}

BOOST_AUTO_TEST_CASE(every_loss_is_that_of_one_process) {
  for (const LossRow& row : loss_rows()) {
    BOOST_TEST_CONTEXT(row.name) {
      const Program program = [&row](Communicator* ranks, const Slice& slice) {
        Run run;
        std::vector<Tower> towers;
        for (std::size_t t = 0; t < row.representations; ++t) {
          const Tensor& x = row.inputs[t];
          const Parameter gain("gain" + std::to_string(t), random_values({x.size(-1)}, 90 + t));
          run.parameters.push_back(gain);
          towers.emplace_back("tower" + std::to_string(t), slice(t, x),
                              [gain](const Tensor& own) { return ops::multiply(own, gain); });
        }
        std::vector<Variable> of_loss;
        for (std::size_t i = row.representations; i < row.inputs.size(); ++i) {
          run.parameters.emplace_back("of_loss" + std::to_string(i), row.inputs[i]);
          of_loss.emplace_back(run.parameters.back());
        }
        const Loss loss = [&](std::span<const Variable> r) {
          std::vector<Variable> all(r.begin(), r.end());
          all.insert(all.end(), of_loss.begin(), of_loss.end());
          return row.loss(all);
        };
        run.result = cached_step(towers, loss, {.cut = {2}, .communicator = ranks});
        return run;
      };
      std::vector<std::int64_t> samples;
      for (std::size_t t = 0; t < row.representations; ++t) samples.push_back(row.inputs[t].size(0));
      check_ranks(program, samples);
    }
  }
}

BOOST_AUTO_TEST_CASE(tied_frozen_and_three_towers) {
  for (const bool tied : {false, true}) {
    for (const bool frozen : {false, true}) {
      const Program program = [=](Communicator* ranks, const Slice& slice) {
        const Encoder a(50, DType::kFloat64, 0.2), b = tied ? a : Encoder(60, DType::kFloat64, 0.2),
                                                   c(70, DType::kFloat64, 0.2);
        if (frozen) {
          for (Parameter p : c.parameters()) p.set_requires_gradient(false);
        }
        const std::vector<Tower> towers{{"a", slice(0, random_values({7, 5}, 1)), a},
                                        {"b", slice(1, random_values({7, 5}, 2)), b},
                                        {"c", slice(2, random_values({7, 5}, 3)), c}};
        const Loss loss = [](std::span<const Variable> r) {
          return ops::add(info_nce(r[0], r[1]), ops::add(info_nce(r[1], r[2]), info_nce(r[2], r[0], {.scale = 3.0})));
        };
        return Run{cached_step(towers, loss, {.cut = {2}, .communicator = ranks}),
                   joined({a.parameters(), b.parameters(), c.parameters()})};
      };
      check_ranks(program, {7, 7, 7});
    }
  }
}

BOOST_AUTO_TEST_CASE(all_towers_frozen_leaves_the_loss_parameters) {
  const Program program = [](Communicator* ranks, const Slice& slice) {
    const ClipSetup setup(9);
    for (Parameter p : joined({setup.image.parameters(), setup.text.parameters()})) p.set_requires_gradient(false);
    return Run{cached_step(towers_of(setup, slice), setup.loss(), {.cut = {4}, .communicator = ranks}),
               setup.parameters()};
  };
  check_ranks(program, {9, 9});
}

BOOST_AUTO_TEST_CASE(hard_negatives) {
  const Program program = [](Communicator* ranks, const Slice& slice) {
    const Encoder query(80, DType::kFloat64, 0.1), passage(90, DType::kFloat64, 0.1);
    const std::vector<Tower> towers{{"query", slice(0, random_values({5, 5}, 1)), query},
                                    {"passage", slice(1, random_values({15, 5}, 2)), passage}};
    const Loss loss = [](std::span<const Variable> r) { return info_nce(r[0], r[1]); };
    return Run{cached_step(towers, loss, {.cut = {2, 4}, .communicator = ranks}),
               joined({query.parameters(), passage.parameters()})};
  };
  check_ranks(program, {5, 15});
}

/// A parameter that the loss reads beside an encoder: the loss's part is whole on every rank, the encoder's is not.
BOOST_AUTO_TEST_CASE(a_parameter_of_encoder_and_loss_is_given_each_part_once) {
  const Program program = [](Communicator* ranks, const Slice& slice) {
    const ClipSetup setup(9, DType::kFloat64, 0.2);
    const Loss loss = [clip = setup.loss(), w2 = setup.image.w2](const Representations& r) {
      return ops::add(clip(r), ops::scale(ops::sum(ops::multiply(w2, w2)), 0.01));
    };
    return Run{cached_step(towers_of(setup, slice), loss, {.cut = {2}, .communicator = ranks}), setup.parameters()};
  };
  check_ranks(program, {9, 9});
}

BOOST_AUTO_TEST_CASE(auxiliary_losses_are_means_over_all_samples) {
  const Program program = [](Communicator* ranks, const Slice& slice) {
    const ClipSetup setup(11, DType::kFloat64, 0.2);
    const std::vector<Tower> towers{{"image", slice(0, setup.images), with_size(setup.image, "size", 0.7)},
                                    {"text", slice(1, setup.texts), with_size(setup.text, "other", 0.3)}};
    return Run{cached_step(towers, setup.loss(), {.cut = {3}, .communicator = ranks}), setup.parameters()};
  };
  check_ranks(program, {11, 11});
}

BOOST_AUTO_TEST_CASE(a_tower_that_the_loss_leaves_out_gives_nothing) {
  const Program program = [](Communicator* ranks, const Slice& slice) {
    const ClipSetup setup(9, DType::kFloat64, 0.2);
    const Loss loss = [](std::span<const Variable> r) { return ops::sum(ops::multiply(r[0], r[0])); };
    return Run{cached_step(towers_of(setup, slice), loss, {.cut = {2}, .allow_unused = true, .communicator = ranks}),
               setup.parameters()};
  };
  check_ranks(program, {9, 9});
}

BOOST_AUTO_TEST_CASE(several_outputs_and_integers) {
  const Program program = [](Communicator* ranks, const Slice& slice) {
    const ClipSetup setup(9, DType::kFloat64, 0.2);
    const auto two = [](const Encoder& encoder) {
      return [encoder](const Tensor& x) {
        const Variable y = encoder(x);
        return Encoded{{{"main", y}, {"wide", ops::tanh(y)}}};
      };
    };
    const std::vector<Tower> towers{{"image", slice(0, setup.images), two(setup.image)},
                                    {"text", slice(1, setup.texts), two(setup.text)}};
    const Loss loss = [clip = setup.loss()](const Representations& r) {
      return ops::add(info_nce(r.at("image.main"), r.at("text.wide")), info_nce(r.at("text.main"), r.at("image.wide")));
    };
    return Run{cached_step(towers, loss, {.cut = {2}, .communicator = ranks}), setup.parameters()};
  };
  check_ranks(program, {9, 9});
}

BOOST_AUTO_TEST_CASE(scales_of_host_and_device_and_accumulation) {
  const Program program = [](Communicator* ranks, const Slice& slice) {
    const ClipSetup setup(9, DType::kFloat64, 0.2);
    StepOptions options{.cut = {2}, .scale = 0.5, .communicator = ranks};
    cached_step(towers_of(setup, slice), setup.loss(), options);
    begin_random_step(11, 5);
    options.scale = Tensor::full({}, 3.0, DType::kFloat64);
    return Run{cached_step(towers_of(setup, slice), setup.loss(), options), setup.parameters()};
  };
  check_ranks(program, {9, 9});
}

BOOST_AUTO_TEST_CASE(random_draws_of_the_loss_are_the_same_on_every_rank) {
  const Program program = [](Communicator* ranks, const Slice& slice) {
    const ClipSetup setup(9, DType::kFloat64, 0.2);
    const Loss loss = [scale = setup.log_scale](std::span<const Variable> r) {
      return clip_loss(ops::dropout(r[0], 0.4), r[1], {.scale = Scale::from_log(scale)});
    };
    return Run{cached_step(towers_of(setup, slice), loss, {.cut = {2}, .communicator = ranks}), setup.parameters()};
  };
  check_ranks(program, {9, 9});
}

BOOST_AUTO_TEST_CASE(kept_tapes_and_budgets_are_each_ranks_own) {
  const Program by_rank = [](Communicator* ranks, const Slice& slice) {
    const ClipSetup setup(13, DType::kFloat64, 0.3);
    StepOptions options{.cut = MemoryPlan{{2, 3}, ranks != nullptr ? 2 * ranks->rank() : 0}, .communicator = ranks};
    return Run{cached_step(towers_of(setup, slice), setup.loss(), options), setup.parameters()};
  };
  check_ranks(by_rank, {13, 13});
  const Program budget = [](Communicator* ranks, const Slice& slice) {
    const ClipSetup setup(13, DType::kFloat64, 0.3);
    StepOptions options{.cut = MemoryBudget{std::size_t{1} << 30}, .communicator = ranks};
    return Run{cached_step(towers_of(setup, slice), setup.loss(), options), setup.parameters()};
  };
  check_ranks(budget, {13, 13});
}

/// One rank measures what fits, the others wait for it.
BOOST_AUTO_TEST_CASE(a_budget_may_be_one_ranks_alone) {
  for (const bool kept_plan : {false, true}) {
    const Program program = [=](Communicator* ranks, const Slice& slice) {
      const ClipSetup setup(13, DType::kFloat64, 0.3);
      StepOptions options{.cut = ChunkSizes{{2, 3}}, .communicator = ranks};
      if (ranks == nullptr || ranks->rank() == ranks->size() - 1) options.cut = MemoryBudget{std::size_t{1} << 30};
      if (!kept_plan) return Run{cached_step(towers_of(setup, slice), setup.loss(), options), setup.parameters()};
      GradCache steps(setup.loss(), options);
      const StepResult result = steps.step(towers_of(setup, slice));
      require(steps.plan().has_value() == std::holds_alternative<MemoryBudget>(options.cut), "who has a plan");
      return Run{result, setup.parameters()};
    };
    check_ranks(program, {13, 13});
  }
}

BOOST_AUTO_TEST_CASE(the_functional_form_is_that_of_one_process) {
  const Program program = [](Communicator* ranks, const Slice& slice) {
    const ClipSetup setup(14, DType::kFloat64, 0.3);
    const auto batch_of = [&](const char* name, std::size_t tower, const Tensor& whole, const Encoder& encoder) {
      const Tensor own = slice(tower, whole);
      CachedBatch batch{name, {}};
      for (std::int64_t begin = 0; begin < own.size(0); begin += 3) {
        CachedOptions options{.first_sample = slice.first(tower)};
        if (begin > 0) options.after = &batch.chunks.back();
        batch.chunks.push_back(
            cached(with_size(encoder, name, 0.2), own.slice(begin, std::min(begin + 3, own.size(0))), options));
      }
      return batch;
    };
    const std::vector<CachedBatch> batches{batch_of("image", 0, setup.images, setup.image),
                                           batch_of("text", 1, setup.texts, setup.text)};
    return Run{cached_backward(batches, setup.loss(), {.scale = 2, .communicator = ranks}), setup.parameters()};
  };
  const Outcome alone = outcome_of(program, nullptr, {});
  check_as_alone(outcomes_of(program, 1, {{14}}), alone, 1e-12);
  check_as_alone(outcomes_of(program, 2, {{5, 9}, {13, 1}}), alone, 1e-12);
  check_as_alone(outcomes_of(program, 3, {{5, 5, 4}, {1, 12, 1}}), alone, 1e-12);
  check_as_alone(outcomes_of(program, 4, {{1, 6, 4, 3}, {3, 2, 8, 1}}), alone, 1e-12);
}

/// In the first steps the derivative of the last sample alone overflows, on the rank that has it: all skip the step.
BOOST_AUTO_TEST_CASE(a_loss_scaler_is_that_of_one_process) {
  struct Trained {
    std::vector<double> scales;  // of each step
    double taken = 0, skipped = 0;
    std::vector<Tensor> values;
    std::vector<std::int64_t> digests_of_0 = {};
  };
  constexpr std::int64_t kSamples = 9;
  const auto train = [](Communicator* ranks, const Slice& slice) {
    const ClipSetup setup(kSamples, DType::kFloat32, 0.2);
    std::vector<Parameter> parameters = setup.parameters();
    for (std::size_t i = 0; i < parameters.size(); ++i) parameters[i].set_name("p" + std::to_string(i));
    const Parameter gain("gain", random_values({5}, 40, DType::kFloat32));
    parameters.push_back(gain);
    // Rows of which the first value is tiny are made large again: x f g of f = 1e20, whose derivative is dy f x.
    Tensor images = setup.images.clone();
    float* const last = images.mutable_data<float>() + (kSamples - 1) * 5;
    for (int i = 0; i < 5; ++i) last[i] *= 1e-20f;
    const auto encode = [&](const Tensor& x) {
      Tensor factors = Tensor::full({x.size(0), 1}, 1);
      for (std::int64_t i = 0; i < x.size(0); ++i) {
        if (std::abs(x.data<float>()[i * 5]) < 1e-10f) factors.mutable_data<float>()[i] = 1e20f;
      }
      const Variable large = ops::multiply(ops::multiply(x, gain), factors);
      return ops::l2_normalize(
          ops::linear(ops::tanh(ops::linear(large, setup.image.w1, setup.image.b1)), setup.image.w2));
    };
    train::AdamW optimizer(parameters);
    train::LossScaler scaler({.initial_scale = 0x1p+80, .max_scale = 0x1p+80});
    Trained trained;
    for (std::uint32_t step = 0; step < 24; ++step) {
      const std::vector<Tower> towers{{"image", slice(0, images), encode}, {"text", slice(1, setup.texts), setup.text}};
      begin_random_step(11, step);
      StepOptions options{.cut = {2}, .communicator = ranks};
      options.scale = scaler.scale();
      const StepResult result = cached_step(towers, setup.loss(), options);
      const Number non_finite = scaler.unscale(parameters, result.non_finite);
      optimizer.step(1e-2, 1, non_finite);
      optimizer.clear_gradients();
      scaler.update(non_finite);
      trained.scales.push_back(scaler.scale().item());
    }
    trained.skipped = scaler.skipped_steps().item();
    trained.taken = scaler.steps().item() - trained.skipped;
    for (const Parameter& p : parameters) trained.values.push_back(p.value());
    if (ranks != nullptr) trained.digests_of_0 = of_rank_0(*ranks, digests(trained.values));
    return trained;
  };
  const Trained alone = train(nullptr, {});
  BOOST_TEST(alone.skipped > 2);
  BOOST_TEST(alone.taken > 2);
  for (const std::vector<std::int64_t>& shares :
       {std::vector<std::int64_t>{4, 5}, {5, 3, 1}, {3, 0, 4, 2}, {3, 3, 3, 0}}) {
    const auto own = [&](Communicator& ranks) { return train(&ranks, {ranks.rank(), {shares}}); };
    for (const Trained& found : results_of<Trained>(static_cast<int>(shares.size()), own)) {
      BOOST_TEST(found.scales == alone.scales, boost::test_tools::per_element());
      BOOST_TEST(found.skipped == alone.skipped);
      BOOST_TEST(distance(found.values, alone.values) <= 1e-5);
      BOOST_TEST(digests(found.values) == found.digests_of_0, boost::test_tools::per_element());
    }
  }
}

/// Transformers, chunks by tokens, a share of nothing.
BOOST_AUTO_TEST_CASE(a_model_takes_any_share) {
  const Program program = [](Communicator* ranks, const Slice& slice) {
    const SmallModel model(9);
    const std::int64_t first = slice.first(1), own = slice(1, Tensor::zeros({9, 1})).size(0);
    const models::TokenBatch texts = model.texts.slice(first, first + own);
    const std::vector<Tower> towers{
        {"image", slice(0, model.images), [&](const Tensor& x) { return model.clip.encode_image(x); }},
        {"text", texts, [&](const models::TokenBatch& x) { return model.clip.encode_text(x); }}};
    const StepOptions options{.cut = ChunkTokens{.tokens = 20, .other_towers = {2}}, .communicator = ranks};
    return Run{cached_step(towers, model.loss(), options), model.clip.parameters()};
  };
  const Outcome alone = outcome_of(program, nullptr, {});
  check_as_alone(outcomes_of(program, 2, {{4, 5}, {8, 1}}), alone, 2e-5);
  check_as_alone(outcomes_of(program, 3, {{9, 0, 0}, {0, 4, 5}}), alone, 2e-5);
  check_as_alone(outcomes_of(program, 4, {{2, 0, 4, 3}, {3, 1, 0, 5}}), alone, 2e-5);
}

BOOST_AUTO_TEST_CASE(comparisons_and_self_checks_are_taken_by_all) {
  on_ranks(3, [](Communicator& ranks) {
    const Slice slice(ranks.rank(), {{4, 0, 5}, {3, 3, 3}});
    const ClipSetup setup(9, DType::kFloat64, 0.2);
    const Comparison compared = compare(towers_of(setup, slice), setup.loss(), {.cut = {2}, .communicator = &ranks});
    require(compared.max_relative() <= 1e-12, "comparison");
    require(compared.parameters.size() == 7, "parameters");
    for (const Parameter& p : setup.parameters()) require(!p.gradient().defined(), "a comparison left a gradient");
    GradCache steps(setup.loss(), {.cut = MemoryBudget{std::size_t{1} << 30}, .communicator = &ranks},
                    {.every = 1, .samples = 3});
    const Slice even(ranks.rank(), {{3, 3, 3}});
    steps.step(towers_of(setup, even));
    require(steps.checked()->max_relative() <= 1e-12, "self-check");
    steps.step(towers_of(setup, slice));
  });
}

BOOST_AUTO_TEST_CASE(comparisons_and_self_checks_that_all_refuse_leave_the_group) {
  on_ranks(2, [&](Communicator& ranks) {
    const ClipSetup setup(9, DType::kFloat64, 0.2);
    const std::vector<Tower> towers = towers_of(setup, Slice(ranks.rank(), {{4, 5}}));
    const StepOptions options{.cut = {2}, .communicator = &ranks};
    const auto refused = [](const auto& call) {
      try {
        call();
      } catch (const ValueError&) {
        return true;
      }
      return false;
    };
    const std::vector<Parameter> others{Parameter("other", Tensor::zeros({2}, DType::kFloat64))};
    require(refused([&] { compare(towers, setup.loss(), options, others); }), "a comparison of nothing");
    StepOptions odd = options;
    odd.scale = std::nan("");
    GradCache steps(setup.loss(), odd, {.every = 1, .samples = 4});
    require(refused([&] { steps.step(towers); }), "a scale that is no number");
    require(ranks.failure().empty(), "the group has ended");
    cached_step(towers, setup.loss(), options);
  });
}

BOOST_AUTO_TEST_CASE(one_gather_of_each_tower_and_one_reduction_a_step) {
  // Whatever the number of chunks.
  using Calls = std::vector<std::string>;
  const std::vector<Calls> calls = results_of<Calls>(2, [](Communicator& ranks) {
    Calls own;
    Watched counting(ranks, [&](const std::string& call, const Tensor& of) {
      if (is_floating(of.dtype())) own.push_back(call + " " + describe(of));
    });
    const ClipSetup setup(12, DType::kFloat64, 0.2);
    const Slice slice(ranks.rank(), {{2, 10}});
    cached_step(towers_of(setup, slice), setup.loss(), {.cut = {1}, .communicator = &counting});
    return own;
  });
  const Calls expected{"gather float64 [12, 4] on cpu", "gather float64 [12, 4] on cpu", "reduce float64 [140] on cpu",
                       "broadcast float64 [] on cpu"};
  for (const Calls& own : calls) BOOST_TEST(own == expected);
}

BOOST_AUTO_TEST_SUITE_END()
