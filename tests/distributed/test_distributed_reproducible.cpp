#include <boost/test/unit_test.hpp>

#include <filesystem>
#include <string>
#include <vector>

#include "folder.h"
#include "gradcache_checks.h"
#include "ranks.h"
#include "small_model.h"
#include "tapecache/data/batch_order.h"
#include "tapecache/gradcache/step.h"
#include "tapecache/losses/losses.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/reduce.h"
#include "tapecache/train/checkpoint.h"
#include "tapecache/train/optimizer.h"

using namespace tapecache;
using namespace tapecache::gradcache;
using namespace tapecache::losses;
using namespace tapecache::testing;

namespace {

constexpr std::int64_t kSegments = 8;

/// Shares of whole segments.
std::vector<std::int64_t> whole_segments(std::int64_t samples, int ranks) {
  std::vector<std::int64_t> counts;
  for (std::int64_t r = 0; r < ranks; ++r) counts.push_back(samples * (r + 1) / ranks - samples * r / ranks);
  return counts;
}

/// The parameters of an encoder, under names of their own, as an optimiser asks.
std::vector<Parameter> named(const std::string& encoder, std::vector<Parameter> parameters) {
  for (Parameter& p : parameters) p.set_name(encoder + "." + p.name());
  return parameters;
}

/// Training steps of two tied and a third encoder, of a loss that reads a parameter of an encoder, with auxiliary
/// losses: all that is summed over samples.
Program training(std::int64_t samples, int steps, DType autocast, bool direct) {
  return [=](Communicator* ranks, const Slice& slice) {
    const Encoder shared(10, DType::kFloat32, 0.3), third(20, DType::kFloat32, 0.3);
    const Parameter log_scale("log_scale", Tensor::full({}, 1.5));
    std::vector<Parameter> parameters = joined({shared.parameters(), named("third", third.parameters()), {log_scale}});
    train::AdamW optimizer(parameters);
    const Loss loss = [&](std::span<const Variable> r) {
      const Variable clip = clip_loss(r[0], r[1], {.scale = Scale::from_log(log_scale)});
      const Variable size = ops::scale(ops::sum(ops::multiply(shared.w2, shared.w2)), 0.01);
      return ops::add(ops::add(clip, info_nce(r[1], r[2])), size);
    };
    Run run{{}, parameters};
    for (int step = 0; step < steps; ++step) {
      const auto seed = static_cast<std::uint64_t>(3 * step);
      const auto batch = [&](std::size_t t) {
        return slice(t, random_values({samples, 5}, seed + t, DType::kFloat32));
      };
      const std::vector<Tower> towers{
          {"a", batch(0), shared}, {"b", batch(1), with_size(shared, "size", 0.2)}, {"c", batch(2), third}};
      begin_random_step(7, static_cast<std::uint32_t>(step));
      StepOptions options{
          .reproducible_block = 2, .autocast = autocast, .communicator = ranks, .reproducible_segments = kSegments};
      options.reduction.bucket_bytes = 64;  // so that they travel one by one
      // Whole blocks; how many is each rank's own affair.
      options.cut = ChunkSizes{ranks != nullptr && ranks->rank() % 2 == 1 ? 4 : 2};
      run.result = direct ? direct_step(towers, loss, options.direct()) : cached_step(towers, loss, options);
      optimizer.step(1e-2);
      optimizer.clear_gradients();
    }
    return run;
  };
}

void check_bits(const Program& program, std::int64_t samples) {
  const Outcome alone = outcome_of(program, nullptr, {});
  for (const int size : {1, 2, 4, 8}) {
    for (const Outcome& found : outcomes_of(program, size, {whole_segments(samples, size)})) {
      BOOST_TEST_CONTEXT("rank " << found.rank << " of " << size) {
        BOOST_TEST(found.result.loss.item() == alone.result.loss.item());
        for (std::size_t i = 0; i < alone.values.size(); ++i) {
          BOOST_TEST(same_bits(found.values[i], alone.values[i]), alone.names[i]);
        }
      }
    }
  }
}

}  // namespace

BOOST_AUTO_TEST_SUITE(distributed_reproducible)

BOOST_AUTO_TEST_CASE(fifty_training_steps_have_the_same_bits_for_any_number_of_ranks) {
  for (const DType autocast : {DType::kFloat32, DType::kBFloat16}) {
    for (const std::int64_t samples : {32, 36}) check_bits(training(samples, 50, autocast, false), samples);
  }
}

BOOST_AUTO_TEST_CASE(five_steps_of_each_kind_have_the_same_bits_for_any_number_of_ranks) {
  for (const bool direct : {false, true}) check_bits(training(36, 5, DType::kFloat32, direct), 36);
}

/// A run that goes on from a checkpoint with another number of ranks.
BOOST_AUTO_TEST_CASE(a_checkpoint_is_taken_up_by_any_number_of_ranks, *boost::unit_test::precondition(on_threads)) {
  const Folder folder;
  const std::filesystem::path path = folder / "run.safetensors";
  const Tensor left = random_values({40, 5}, 1, DType::kFloat32), right = random_values({40, 5}, 2, DType::kFloat32);
  // From the checkpoint, or the start, to `end`; writes one there.
  const auto run_to = [&](Communicator* ranks, bool from_checkpoint, std::int64_t end) {
    const ClipSetup setup(1, DType::kFloat32, 0.3);
    named("image", setup.image.parameters());
    const std::vector<Parameter> parameters = setup.parameters();
    train::AdamW optimizer(parameters);
    train::TrainingPosition position{.step = 0, .seed = 5};
    if (from_checkpoint) position = train::load_checkpoint(path, parameters, optimizer);
    data::BatchOrder order(40, 16, position.seed);
    for (; position.step < end; ++position.step) {
      const std::vector<std::int64_t> rows =
          ranks != nullptr ? order.rows(position.step, ranks->rank(), ranks->size()) : order.rows(position.step);
      const std::vector<Tower> towers{{"image", gradcache::detail::select_rows(left, rows), setup.image},
                                      {"text", gradcache::detail::select_rows(right, rows), setup.text}};
      begin_random_step(position.seed, static_cast<std::uint32_t>(position.step));
      cached_step(towers, setup.loss(), {.cut = {1}, .communicator = ranks, .reproducible_segments = 8});
      optimizer.step(1e-2);
      optimizer.clear_gradients();
    }
    const auto save = [&] { train::save_checkpoint(path, parameters, optimizer, position); };
    if (ranks != nullptr) on_rank_0(*ranks, save);
    else save();
    std::vector<Tensor> values;
    for (const Parameter& p : parameters) values.push_back(p.value());
    return values;
  };
  const std::vector<Tensor> expected = run_to(nullptr, false, 7);
  std::vector<Tensor> found;
  const auto go_on = [&](int size, bool from_checkpoint, std::int64_t end) {
    run_in_threads(
        size,
        [&](Communicator& ranks) {
          std::vector<Tensor> values = run_to(&ranks, from_checkpoint, end);
          if (ranks.rank() == size - 1) found = std::move(values);
        },
        kLimit);
  };
  go_on(2, false, 2);
  go_on(8, true, 4);
  run_to(nullptr, true, 5);
  go_on(4, true, 7);
  for (std::size_t i = 0; i < expected.size(); ++i) BOOST_TEST(same_bits(found[i], expected[i]));
}

/// Without segments they have not, or the test above would not tell.
BOOST_AUTO_TEST_CASE(sums_in_another_order_have_other_bits) {
  const auto taken = [](std::int64_t segments) {
    const ClipSetup setup(32, DType::kFloat32, 0.3);
    begin_random_step(1, 1);
    cached_step(setup.towers(), setup.loss(), {.cut = {2}, .reproducible_block = 2, .reproducible_segments = segments});
    return setup.image.w1.gradient();
  };
  BOOST_TEST(!same_bits(taken(0), taken(8)));
  BOOST_TEST(!same_bits(taken(2), taken(8)));
  BOOST_TEST(distance({taken(2)}, {taken(0)}) <= 1e-5);
}

BOOST_AUTO_TEST_CASE(segments_equal_the_plain_step) {
  const auto program = [](std::int64_t segments) {
    return [=](Communicator* ranks, const Slice& slice) {
      const ClipSetup setup(21, DType::kFloat64, 0.3);
      const std::vector<Tower> towers{{"image", slice(0, setup.images), setup.image},
                                      {"text", slice(1, setup.texts), setup.text}};
      return Run{cached_step(towers, setup.loss(),
                             {.cut = MemoryPlan{{2}, 3}, .communicator = ranks, .reproducible_segments = segments}),
                 setup.parameters()};
    };
  };
  const Outcome plain = outcome_of(program(0), nullptr, {});
  for (const std::int64_t segments : {1, 2, 4, 16}) {
    check_as_alone({outcome_of(program(segments), nullptr, {})}, plain, 1e-12);
  }
  check_as_alone(outcomes_of(program(4), 2, {whole_segments(21, 2)}), plain, 1e-12);
}

BOOST_AUTO_TEST_CASE(transformers_have_the_same_bits) {
  const Program program = [](Communicator* ranks, const Slice& slice) {
    const SmallModel model(16);
    train::AdamW optimizer(model.clip.parameters());
    Run run{{}, model.clip.parameters()};
    for (std::uint32_t step = 0; step < 3; ++step) {
      const std::int64_t first = slice.first(0), own = slice(0, model.images).size(0);
      const std::vector<Tower> towers{
          {"image", slice(0, model.images), [&](const Tensor& x) { return model.clip.encode_image(x); }},
          {"text", model.texts.slice(first, first + own),
           [&](const models::TokenBatch& x) { return model.clip.encode_text(x); }}};
      begin_random_step(7, step);
      run.result = cached_step(towers, model.loss(), {.cut = {1}, .communicator = ranks, .reproducible_segments = 8});
      optimizer.step(1e-2);
      optimizer.clear_gradients();
    }
    return run;
  };
  check_bits(program, 16);
}

BOOST_AUTO_TEST_CASE(refuses_what_cannot_be_cut_into_segments, *boost::unit_test::precondition(on_threads)) {
  const ClipSetup setup(12);
  const auto refused = [&](const StepOptions& options, std::vector<std::string> words,
                           const std::vector<Tower>& towers) {
    BOOST_CHECK_EXCEPTION(cached_step(towers, setup.loss(), options), ValueError, says(std::move(words)));
  };
  refused({.cut = {2}, .reproducible_segments = 6}, {"6 reproducible segments", "power of two"}, setup.towers());
  refused({.cut = {2}, .reproducible_segments = -1}, {"-1 reproducible segments"}, setup.towers());
  refused({.cut = {2}, .reproducible_segments = 4, .shared_loss = true}, {"cached_step", "segments", "shared loss"},
          setup.towers());
  BOOST_CHECK_EXCEPTION(direct_step(setup.towers(), setup.loss(), {.reproducible_segments = 4, .shared_loss = true}),
                        ValueError, says({"direct_step", "segments", "shared loss"}));
  refused({.cut = {2}, .reproducible_segments = 16}, {"12 samples", "16 reproducible segments"}, setup.towers());
  std::vector<Tower> towers = setup.towers();
  towers[0] =
      Tower::from_chunks("image", std::vector{setup.images.slice(0, 4), setup.images.slice(4, 12)}, setup.image);
  refused({.cut = {2}, .reproducible_segments = 2}, {"samples [4, 12) of tower 'image'", "two reproducible segments"},
          towers);
  std::vector<std::string> texts(2);
  run_in_threads(
      2,
      [&](Communicator& ranks) {
        const ClipSetup own(12);
        const Slice slice(ranks.rank(), {{5, 7}});
        try {
          cached_step(
              std::vector<Tower>{{"image", slice(0, own.images), own.image}, {"text", slice(0, own.texts), own.text}},
              own.loss(), {.cut = {2}, .communicator = &ranks, .reproducible_segments = 4});
        } catch (const ValueError& error) {
          texts[static_cast<std::size_t>(ranks.rank())] = error.what();
        }
      },
      kLimit);
  for (const std::string& text : texts) {
    BOOST_TEST(text ==
               "cached_step: rank 0 has samples [0, 5) of tower 0, expected up to 6: 2 of 4 reproducible segments");
  }
}

BOOST_AUTO_TEST_SUITE_END()
