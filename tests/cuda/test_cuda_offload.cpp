#include <algorithm>
#include <functional>
#include <span>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "cuda_device.h"
#include "gradcache_checks.h"
#include "tapecache/core/allocator.h"
#include "tapecache/gradcache/cached.h"
#include "tapecache/gradcache/grad_cache.h"
#include "tapecache/losses/losses.h"
#include "tapecache/models/clip.h"
#include "tapecache/ops/reduce.h"

// The cached step with its batch, or its representations and their gradients, in the host's memory: the same bits as
// with all of it on the device, in less of the device's memory.

using namespace tapecache;
using namespace tapecache::gradcache;
using namespace tapecache::losses;
using namespace tapecache::testing;

namespace {

/// Where a batch lies before a step.
enum class Batch { kDevice, kHost, kPinned };

models::TokenBatch sentences(std::int64_t count) {
  std::vector<std::vector<std::int32_t>> words;
  for (std::int64_t i = 0; i < count; ++i) {
    words.emplace_back(static_cast<std::size_t>(1 + i * 5 % 8), static_cast<std::int32_t>(i % 10));
  }
  return models::TokenBatch::pad(words);
}

/// Rows of 256 bytes: a view of a batch is then aligned as a copy is, so that products of both are made in the same
/// way.
constexpr std::int64_t kAligned = 64;

/// Three towers with dropout: of a tensor, of tokens, and of two tensors with two outputs and an auxiliary loss.
struct ThreeTowers {
  std::int64_t n = 19;
  Encoder image = Encoder(1, DType::kFloat32, 0.2, kAligned, 7, 8),
          pair = Encoder(2, DType::kFloat32, 0.2, kAligned, 7, 8);
  models::Builder builder{5, DType::kFloat32};
  models::TextTransformer text{builder,
                               {.vocabulary = 10,
                                .max_tokens = 8,
                                .causal = true,
                                .pooling = models::TextConfig::Pooling::kLastToken,
                                .encoder = {.width = 8, .layers = 1, .heads = 2, .mlp_width = 16, .dropout = 0.2}}};
  Tensor images = random_values({n, kAligned}, 3, DType::kFloat32),
         left = random_values({n, kAligned}, 4, DType::kFloat32),
         right = random_values({n, kAligned}, 5, DType::kFloat32);
  models::TokenBatch tokens = sentences(n);

  ThreeTowers() { builder.to(kCuda); }

  std::vector<Tower> towers(Batch batch) const {
    const auto encode_text = [this](const models::TokenBatch& t) { return ops::l2_normalize(text(t)); };
    const auto encode_pair = [this](const Tensor& a, const Tensor& b) {
      const Variable y = pair(a);
      return Encoded{{{"first", y}, {"second", ops::tanh(pair(b))}}, {{"size", ops::mean(ops::exp(y), 1), 0.7}}};
    };
    const auto place = [&](const auto& input) {
      return batch == Batch::kDevice ? input.to(kCuda) : batch == Batch::kPinned ? input.pinned() : input;
    };
    std::vector<Tower> made{{"image", place(images), image},
                            {"text", place(tokens), encode_text},
                            {"pair", std::tuple(place(left), place(right)), encode_pair}};
    for (Tower& tower : made) {
      if (batch != Batch::kDevice) tower = tower.upload_to(kCuda);
    }
    return made;
  }
  Loss loss() const {
    return [](const Representations& r) {
      return ops::add(info_nce(r.at("image"), r.at("text")), info_nce(r.at("pair.first"), r.at("pair.second")));
    };
  }
  std::vector<Parameter> parameters() const {
    return joined({image.parameters(), pair.parameters(), builder.parameters()});
  }
};

struct Outcome {
  StepResult result;
  std::vector<Tensor> gradients;
  RandomState random;
};

Outcome take_step(const ThreeTowers& setup, Batch batch, const StepOptions& options) {
  begin_random_step(7, 3);
  const std::vector<Tower> towers = setup.towers(batch);
  Outcome outcome{cached_step(towers, setup.loss(), options), {}, {}};
  outcome.gradients = gradients_of(setup.parameters());
  outcome.random = random_state();
  return outcome;
}

void check_same(const Outcome& found, const Outcome& expected) {
  BOOST_TEST((found.result.status == StepStatus::kDone));
  BOOST_TEST(found.result.loss.item() == expected.result.loss.item());
  BOOST_TEST(found.result.representation_norms == expected.result.representation_norms);
  BOOST_TEST(found.result.auxiliary.at(0).mean == expected.result.auxiliary.at(0).mean);
  BOOST_TEST(found.result.kept_chunks == expected.result.kept_chunks);
  BOOST_TEST((found.random == expected.random));
  BOOST_REQUIRE(found.result.representations.size() == 4u);
  for (std::size_t i = 0; i < 4; ++i) {
    BOOST_TEST(same_bits(found.result.representations[i], expected.result.representations[i]));
  }
  BOOST_REQUIRE(found.gradients.size() == expected.gradients.size());
  for (std::size_t i = 0; i < expected.gradients.size(); ++i) {
    BOOST_REQUIRE(found.gradients[i].defined() == expected.gradients[i].defined());
    if (expected.gradients[i].defined()) BOOST_TEST(same_bits(found.gradients[i], expected.gradients[i]));
  }
}

void check_every_place(const ThreeTowers& setup, StepOptions options) {
  options.offload = false;
  const Outcome expected = take_step(setup, Batch::kDevice, options);
  for (const Batch batch : {Batch::kDevice, Batch::kHost, Batch::kPinned}) {
    for (const bool offload : {false, true}) {
      BOOST_TEST_CONTEXT("batch " << static_cast<int>(batch) << ", off-loading " << offload) {
        options.offload = offload;
        const Outcome found = take_step(setup, batch, options);
        check_same(found, expected);
        for (const Tensor& r : found.result.representations) BOOST_TEST(r.is_pinned() == offload);
      }
    }
  }
}

/// A batch that says when it is copied.
struct Watched {
  Tensor values;
  std::vector<std::string>* log;

  std::int64_t size() const { return values.size(0); }
  Watched slice(std::int64_t begin, std::int64_t end) const { return {values.slice(begin, end), log}; }
  template <class Change>
  Watched map_tensors(const Change& change) const {
    log->push_back("copy " + std::to_string(size()));
    return {change(values), log};
  }
};

/// A batch without a way to a device, and one that only goes by itself.
struct Fixed {
  Tensor values;
  std::int64_t size() const { return values.size(0); }
  Fixed slice(std::int64_t begin, std::int64_t end) const { return {values.slice(begin, end)}; }
};
struct Moving : Fixed {
  Moving slice(std::int64_t begin, std::int64_t end) const { return {{values.slice(begin, end)}}; }
  Moving to(Device device) const { return {{values.to(device)}}; }
};

}  // namespace

BOOST_AUTO_TEST_SUITE(cuda)
BOOST_AUTO_TEST_SUITE(offload)

BOOST_AUTO_TEST_CASE(a_step_gives_the_same_bits_wherever_its_data_lies, *on_device) {
  const ThreeTowers setup;
  for (const auto& [chunk, kept] : std::vector<std::pair<std::int64_t, std::int64_t>>{
           {1, 0}, {4, 0}, {4, 3}, {4, 100}, {7, 3}, {30, 0}, {30, 100}}) {
    BOOST_TEST_CONTEXT("chunks of " << chunk << ", " << kept << " kept") {
      StepOptions options = device_options();
      options.cut = MemoryPlan{{chunk, chunk + 1, chunk}, kept};
      options.check_recompute = chunk == 4;
      check_every_place(setup, options);
    }
  }
}

BOOST_AUTO_TEST_CASE(chunks_by_tokens_give_the_same_bits_wherever_their_data_lies, *on_device) {
  const ThreeTowers setup;
  for (const std::int64_t tokens : {1, 13, 40}) {
    StepOptions options = device_options();
    options.cut = ChunkTokens{tokens, {4}};
    options.check_recompute = true;
    BOOST_TEST_CONTEXT(tokens << " tokens") { check_every_place(setup, options); }
  }
}

BOOST_AUTO_TEST_CASE(other_options_give_the_same_bits_wherever_the_data_lies, *on_device) {
  const ThreeTowers setup;
  StepOptions low = device_options({4}), reproducible = device_options({8}), scaled = device_options({5});
  low.autocast = DType::kBFloat16;
  reproducible.reproducible_block = 8;
  scaled.scale = 0.25;
  for (const StepOptions& options : {low, reproducible, scaled}) check_every_place(setup, options);

  // Steps in blocks give the same bits whatever chunks a budget leads to.
  const Outcome expected = take_step(setup, Batch::kDevice, reproducible);
  const std::size_t base = allocator(kCuda).stats().current;
  for (const std::size_t room : {std::size_t{60'000}, std::size_t{120'000}, std::size_t{1} << 30}) {
    StepOptions budget = device_options();
    budget.reproducible_block = 8;
    budget.offload = true;
    budget.cut = MemoryBudget{base + (kCuda.name() == "emulated" ? room : std::size_t{1} << 30)};
    Outcome found = take_step(setup, Batch::kHost, budget);
    BOOST_TEST(found.result.peak_bytes <= std::get<MemoryBudget>(budget.cut).bytes);
    found.result.kept_chunks = expected.result.kept_chunks;
    check_same(found, expected);
  }
}

BOOST_AUTO_TEST_CASE(a_chunk_is_copied_before_the_one_in_front_of_it_is_encoded, *on_device) {
  std::vector<std::string> log;
  const Encoder encoder = Encoder(1, DType::kFloat32, 0.2);
  const auto encode = [&](const Watched& batch) {
    log.push_back("encode " + std::to_string(batch.size()));
    BOOST_TEST((batch.values.device() == kCuda));
    return encoder(batch.values);
  };
  std::vector<Watched> chunks;
  for (const std::int64_t size : {1, 2, 3}) chunks.push_back({random_values({size, 5}, 2, DType::kFloat32), &log});
  const Tower tower = Tower::from_chunks("x", chunks, encode).upload_to(kCuda);
  const Loss loss = [](std::span<const Variable> r) { return info_nce(r[0], r[0]); };
  using Log = std::vector<std::string>;
  cached_step(std::span(&tower, 1), loss, device_options());
  BOOST_TEST(log == (Log{"copy 1", "copy 2", "encode 1", "copy 3", "encode 2", "encode 3",  //
                         "copy 3", "copy 2", "encode 3", "copy 1", "encode 2", "encode 1"}),
             boost::test_tools::per_element());
  log.clear();
  StepOptions kept = device_options();
  kept.cut = MemoryPlan{{0}, 2};
  cached_step(std::span(&tower, 1), loss, kept);
  BOOST_TEST(log == (Log{"copy 1", "copy 2", "encode 1", "copy 3", "encode 2", "encode 3", "copy 1", "encode 1"}),
             boost::test_tools::per_element());
  gradients_of(encoder.parameters());
}

BOOST_AUTO_TEST_CASE(other_ways_to_take_a_step_upload_too, *on_device) {
  ClipSetup setup(9, DType::kFloat32, 0.2);
  setup.image = Encoder(10, DType::kFloat32, 0.2, kAligned);
  setup.text = Encoder(20, DType::kFloat32, 0.2, kAligned);
  setup.images = random_values({9, kAligned}, 30, DType::kFloat32);
  setup.texts = random_values({9, kAligned}, 31, DType::kFloat32);
  for (Parameter p : setup.parameters()) p.move_to(kCuda);
  const std::vector<Tower> there_already{{"image", setup.images.to(kCuda), setup.image},
                                         {"text", setup.texts.to(kCuda), setup.text}};
  const std::vector<Tower> uploading{Tower("image", setup.images.pinned(), setup.image).upload_to(kCuda),
                                     Tower("text", Moving{{setup.texts}}, [&](const Moving& batch) {
                                       return setup.text(batch.values);
                                     }).upload_to(kCuda)};
  const auto same = [&](const std::function<StepResult(std::span<const Tower>)>& step) {
    begin_random_step(3, 4);
    const double expected = step(there_already).loss.item();
    const std::vector<Tensor> gradients = gradients_of(setup.parameters());
    begin_random_step(3, 4);
    BOOST_TEST(step(uploading).loss.item() == expected);
    const std::vector<Tensor> found = gradients_of(setup.parameters());
    for (std::size_t i = 0; i < found.size(); ++i) BOOST_TEST(same_bits(found[i], gradients[i]));
  };
  same([&](std::span<const Tower> towers) { return direct_step(towers, setup.loss(), device_options().direct()); });
  same([&](std::span<const Tower> towers) {
    return accumulated_step(towers, setup.loss(), {.chunk_sizes = {3}, .device = kCuda});
  });
  same([&](std::span<const Tower> towers) {
    std::vector<CachedBatch> batches;
    for (const Tower& tower : towers) batches.push_back({tower.name(), {cached(tower)}});
    return cached_backward(batches, setup.loss(), {.device = kCuda});
  });
  same([&](std::span<const Tower> towers) {
    StepOptions options = device_options({4});
    options.offload = true;
    GradCache grad_cache(setup.loss(), options, {.every = 1, .samples = 4});
    StepResult result = grad_cache.step(towers);
    check_equal(*grad_cache.checked(), 1e-5);
    return result;
  });
  const auto encode = [&](const Fixed& batch) { return setup.image(batch.values); };
  const Tower fixed("odd", Fixed{setup.images}, encode);
  BOOST_CHECK_EXCEPTION(fixed.upload_to(kCuda), ValueError, says({"'odd'", "map_tensors", "to(device)", "cuda:0"}));
  BOOST_CHECK_THROW(uploading[0].upload_to(Device::cuda(Device::cuda_count())), DeviceError);
}

BOOST_AUTO_TEST_SUITE_END()
BOOST_AUTO_TEST_SUITE_END()
