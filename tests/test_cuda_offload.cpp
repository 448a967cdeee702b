#include <algorithm>
#include <functional>
#include <span>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "cuda_gradcache.h"
#include "tapecache/core/allocator.h"
#include "tapecache/gradcache/cached.h"
#include "tapecache/gradcache/grad_cache.h"
#include "tapecache/gradcache/tiled_losses.h"
#include "tapecache/models/text_transformer.h"
#include "tapecache/ops/reduce.h"

// The cached step with its batch, or its representations and their gradients, in the host's memory: the same bits as with all
// of it on the device, in less of the device's memory.

using namespace tapecache;
using namespace tapecache::gradcache;
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

/// Rows of 256 bytes: a view of a batch is then aligned as a copy is, so that products of both are made in the same way.
constexpr std::int64_t kAligned = 64;

/// Three towers with dropout: of a tensor, of tokens, and of two tensors with two outputs and an auxiliary loss.
struct ThreeTowers {
  std::int64_t n = 19;
  Encoder image = moved(Encoder(1, DType::kFloat32, 0.2, kAligned, 7, 8)),
          pair = moved(Encoder(2, DType::kFloat32, 0.2, kAligned, 7, 8));
  models::Builder builder{5, DType::kFloat32};
  models::TextTransformer text{builder,
                               {.vocabulary = 10,
                                .max_tokens = 8,
                                .causal = true,
                                .pooling = models::TextPooling::kLastToken,
                                .encoder = {.width = 8, .layers = 1, .heads = 2, .mlp_width = 16, .dropout = 0.2}}};
  Tensor images = random_values({n, kAligned}, 3, DType::kFloat32), left = random_values({n, kAligned}, 4, DType::kFloat32),
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
  BOOST_TEST(found.result.loss == expected.result.loss);
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

/// Encoders whose work on a chunk takes about as much memory as the representations and their gradients, unless their layers
/// have other widths: multiples of that of the representations.
struct WideOutputs {
  explicit WideOutputs(std::int64_t input = 1, std::int64_t hidden = 8) : in(input * width), between(hidden * width) {}

  bool emulated = device_name(kCuda) == "emulated";
  std::int64_t samples = emulated ? 512 : 8192, width = emulated ? 64 : 1024, chunk = samples / 4, in, between;
  Encoder image = moved(Encoder(1, DType::kFloat32, 0.1, in, between, width));
  Encoder text = moved(Encoder(2, DType::kFloat32, 0.1, in, between, width));
  Tensor images = random_values({samples, in}, 3, DType::kFloat32), texts = random_values({samples, in}, 4, DType::kFloat32);
  Loss loss = [tile = TileOptions{samples / 8, samples / 64}](std::span<const Variable> r) {
    return tiled_info_nce(r[0], r[1], 3.0, tile);
  };
  std::vector<Parameter> parameters = joined({image.parameters(), text.parameters()});

  std::vector<Tower> there() const { return {{"image", images.to(kCuda), image}, {"text", texts.to(kCuda), text}}; }
  std::vector<Tower> here() const {
    return {Tower("image", images.pinned(), image).upload_to(kCuda), Tower("text", texts.pinned(), text).upload_to(kCuda)};
  }
  /// Bytes of both towers' representations and their gradients.
  std::size_t cache_bytes() const { return static_cast<std::size_t>(4 * samples * width) * sizeof(float); }
};

/// The most that a step takes beside what is there before it.
std::size_t peak_of(const WideOutputs& setup, const std::vector<Tower>& towers, const StepOptions& options) {
  begin_random_step(1, 1);
  const std::size_t base = allocator(kCuda).stats().current;
  const std::size_t peak = cached_step(towers, setup.loss, options).peak_bytes - base;
  gradients_of(setup.parameters);
  return peak;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(cuda)
BOOST_AUTO_TEST_SUITE(offload)

BOOST_AUTO_TEST_CASE(a_step_gives_the_same_bits_wherever_its_data_lies, *on_device) {
  const ThreeTowers setup;
  for (const std::int64_t chunk : {1, 4, 7, 30}) {
    for (const std::int64_t kept : {0, 3, 100}) {
      BOOST_TEST_CONTEXT("chunks of " << chunk << ", " << kept << " kept") {
        StepOptions options = there();
        options.memory_plan = MemoryPlan{{chunk, chunk + 1, chunk}, kept};
        options.check_replay = chunk == 4;
        check_every_place(setup, options);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(chunks_by_tokens_give_the_same_bits_wherever_their_data_lies, *on_device) {
  const ThreeTowers setup;
  for (const std::int64_t tokens : {1, 13, 40}) {
    StepOptions options = there({4});
    options.chunk_tokens = tokens;
    options.check_replay = true;
    BOOST_TEST_CONTEXT(tokens << " tokens") { check_every_place(setup, options); }
  }
}

BOOST_AUTO_TEST_CASE(other_options_give_the_same_bits_wherever_the_data_lies, *on_device) {
  const ThreeTowers setup;
  StepOptions low = there({4}), reproducible = there({8}), scaled = there({5});
  low.autocast = DType::kBFloat16;
  reproducible.reproducible = true;
  scaled.scale = 0.25;
  for (const StepOptions& options : {low, reproducible, scaled}) check_every_place(setup, options);

  // Steps in blocks give the same bits whatever chunks a budget leads to.
  const Outcome expected = take_step(setup, Batch::kDevice, reproducible);
  const std::size_t base = allocator(kCuda).stats().current;
  for (const std::size_t room : {std::size_t{60'000}, std::size_t{120'000}, std::size_t{1} << 30}) {
    StepOptions budget = there();
    budget.reproducible = true;
    budget.offload = true;
    budget.memory_budget = MemoryBudget{base + (device_name(kCuda) == "emulated" ? room : std::size_t{1} << 30)};
    Outcome found = take_step(setup, Batch::kHost, budget);
    BOOST_TEST(found.result.peak_bytes <= budget.memory_budget->bytes);
    found.result.kept_chunks = expected.result.kept_chunks;
    check_same(found, expected);
  }
}

BOOST_AUTO_TEST_CASE(a_chunk_is_copied_before_the_one_in_front_of_it_is_encoded, *on_device) {
  std::vector<std::string> log;
  const Encoder encoder = moved(Encoder(1, DType::kFloat32, 0.2));
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
  cached_step(std::span(&tower, 1), loss, there());
  BOOST_TEST(log == (Log{"copy 1", "copy 2", "encode 1", "copy 3", "encode 2", "encode 3",  //
                         "copy 3", "copy 2", "encode 3", "copy 1", "encode 2", "encode 1"}),
             boost::test_tools::per_element());
  log.clear();
  StepOptions kept = there();
  kept.memory_plan = MemoryPlan{{0}, 2};
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
  const std::vector<Tower> uploading{
      Tower("image", setup.images.pinned(), setup.image).upload_to(kCuda),
      Tower("text", Moving{{setup.texts}}, [&](const Moving& batch) { return setup.text(batch.values); }).upload_to(kCuda)};
  const auto same = [&](const std::function<StepResult(std::span<const Tower>)>& step) {
    begin_random_step(3, 4);
    const double expected = step(there_already).loss;
    const std::vector<Tensor> gradients = gradients_of(setup.parameters());
    begin_random_step(3, 4);
    BOOST_TEST(step(uploading).loss == expected);
    const std::vector<Tensor> found = gradients_of(setup.parameters());
    for (std::size_t i = 0; i < found.size(); ++i) BOOST_TEST(same_bits(found[i], gradients[i]));
  };
  same([&](std::span<const Tower> towers) { return direct_step(towers, setup.loss(), there()); });
  same([&](std::span<const Tower> towers) { return accumulated_step(towers, setup.loss(), there({3})); });
  same([&](std::span<const Tower> towers) {
    std::vector<CachedBatch> batches;
    for (const Tower& tower : towers) batches.push_back({tower.name(), {cached(tower)}});
    return cached_backward(batches, setup.loss(), there());
  });
  same([&](std::span<const Tower> towers) {
    StepOptions options = there({4});
    options.offload = true;
    GradCache grad_cache(setup.loss(), options, {.every = 1, .samples = 4});
    StepResult result = grad_cache.step(towers);
    check_equal(*grad_cache.checked(), 1e-5);
    return result;
  });
  const auto encode = [&](const Fixed& batch) { return setup.image(batch.values); };
  const Tower fixed("odd", Fixed{setup.images}, encode);
  BOOST_CHECK_EXCEPTION(fixed.upload_to(kCuda), ValueError, says({"'odd'", "map_tensors", "to(device)", "cuda:0"}));
  BOOST_CHECK_THROW(uploading[0].upload_to(Device::cuda(cuda_device_count())), DeviceError);
}

BOOST_AUTO_TEST_CASE(off_loading_takes_less_of_the_devices_memory, *on_device) {
  const WideOutputs setup;
  StepOptions options = there({setup.chunk});
  const std::size_t cache = setup.cache_bytes(), rows = cache / 16;  // of one chunk of one tower
  const std::size_t without = peak_of(setup, setup.there(), options);
  options.offload = true;
  const std::size_t with = peak_of(setup, setup.there(), options);
  // At its peak the backward of the second tower's chunks has all representations and one tower's gradients beside it; of
  // those that are off-loaded, the rows of two chunks.
  BOOST_TEST(without - with >= cache * 3 / 4 - 2 * rows - 4096, "without " << without << ", with " << with);

  const std::size_t inputs = static_cast<std::size_t>(2 * setup.samples * setup.in) * sizeof(float);
  const std::size_t before = allocator(kCuda).stats().current;
  const std::vector<Tower> here = setup.here(), there = setup.there();
  BOOST_TEST(allocator(kCuda).stats().current - before >= inputs);
  const std::size_t uploading = peak_of(setup, here, options);
  BOOST_TEST(uploading <= with + inputs / 4 + 4096, "uploading " << uploading << ", with " << with);
}

BOOST_AUTO_TEST_CASE(a_budget_holds_more_tapes_where_representations_are_off_loaded, *on_device) {
  for (const auto& [input, hidden] : {std::pair{1, 8}, {1, 1}, {8, 1}}) {
    const WideOutputs setup(input, hidden);
    StepOptions options = there({setup.chunk});
    const std::size_t needed = peak_of(setup, setup.there(), options);
    options.chunk_sizes.clear();
    const std::vector<Tower> here = setup.here(), there = setup.there();
    options.memory_budget = MemoryBudget{allocator(kCuda).stats().current + needed * 3 / 2};
    const auto kept = [](const MemoryPlan& plan) { return plan.kept_chunks * plan.chunk_sizes[0]; };
    const std::int64_t kept_without = kept(plan_memory(there, options));
    options.offload = true;
    for (const std::vector<Tower>& towers : {there, here}) {
      BOOST_TEST_CONTEXT("input " << input << ", hidden " << hidden << ", uploads " << towers[0].uploads()) {
        const MemoryPlan plan = plan_memory(towers, options);
        if (!towers[0].uploads()) BOOST_TEST(kept(plan) > kept_without);  // else tapes hold their inputs too
        begin_random_step(1, 1);
        const StepResult result = cached_step(towers, setup.loss, options);
        BOOST_TEST(result.peak_bytes <= options.memory_budget->bytes);
        BOOST_TEST(result.retries == 0);
        BOOST_TEST(result.kept_chunks == plan.kept_chunks);
        gradients_of(setup.parameters);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(a_failure_in_the_middle_leaves_nothing_behind, *on_device) {
  const WideOutputs setup;
  StepOptions options = there({setup.chunk});
  options.offload = true;
  begin_random_step(2, 2);
  const StepResult expected = cached_step(setup.here(), setup.loss, options);
  const std::vector<Tensor> gradients = gradients_of(setup.parameters);
  const std::size_t device = allocator(kCuda).stats().current, host = pinned_allocator().stats().current;
  for (const int last : {1, 3, 7, 10, 16}) {
    int calls = 0;
    const auto failing = [&](const Tensor& x) {
      if (++calls == last) throw std::runtime_error("enough");
      return setup.image(x);
    };
    {
      const std::vector<Tower> towers{Tower("image", setup.images, failing).upload_to(kCuda),
                                      Tower("text", setup.texts.pinned(),
                                            [&](const Tensor& x) { return ++calls == last ? throw std::runtime_error("enough")
                                                                                          : setup.text(x); })
                                          .upload_to(kCuda)};
      begin_random_step(2, 2);
      const RandomState before = random_state();
      BOOST_CHECK_THROW(cached_step(towers, setup.loss, options), std::runtime_error);
      BOOST_TEST((random_state() == before));
    }
    for (const Parameter& p : setup.parameters) BOOST_TEST(!p.gradient().defined());
    BOOST_TEST(allocator(kCuda).stats().current == device);
    BOOST_TEST(pinned_allocator().stats().current == host);
    begin_random_step(2, 2);
    BOOST_TEST(cached_step(setup.here(), setup.loss, options).loss == expected.loss);
    const std::vector<Tensor> found = gradients_of(setup.parameters);
    for (std::size_t i = 0; i < found.size(); ++i) BOOST_TEST(same_bits(found[i], gradients[i]));
  }
}

BOOST_AUTO_TEST_CASE(running_out_of_memory_while_off_loading, *on_device) {
  const WideOutputs setup;
  StepOptions options = there({setup.chunk});
  options.offload = true;
  const std::vector<Tower> towers = setup.here();
  begin_random_step(2, 2);
  cached_step(towers, setup.loss, options);
  const std::vector<Tensor> gradients = gradients_of(setup.parameters);
  const std::size_t needed = peak_of(setup, towers, options), device = allocator(kCuda).stats().current;
  {
    const MemoryLimit limit(device + needed + needed / 8, kCuda);
    options.chunk_sizes = {setup.samples};
    BOOST_CHECK_THROW(cached_step(towers, setup.loss, options), OutOfMemory);
    for (const Parameter& p : setup.parameters) BOOST_TEST(!p.gradient().defined());
    BOOST_TEST(allocator(kCuda).stats().current == device);
    options.retry_smaller_chunks = true;
    begin_random_step(2, 2);
    const StepResult retried = cached_step(towers, setup.loss, options);
    BOOST_TEST(retried.retries > 0);
    const std::vector<Tensor> found = gradients_of(setup.parameters);
    for (std::size_t i = 0; i < found.size(); ++i) BOOST_TEST(max_difference(found[i], gradients[i]) <= 1e-5);
  }
  Allocator& pinned = pinned_allocator();
  pinned.set_limit(pinned.stats().current + 100);
  options.retry_smaller_chunks = false;
  options.chunk_sizes = {setup.chunk};
  BOOST_CHECK_EXCEPTION(cached_step(towers, setup.loss, options), OutOfMemory, says({"page-locked memory"}));
  pinned.set_limit(0);
}

BOOST_AUTO_TEST_SUITE_END()
BOOST_AUTO_TEST_SUITE_END()
