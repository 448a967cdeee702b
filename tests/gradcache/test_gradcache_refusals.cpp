#include <functional>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "gradcache_checks.h"
#include "tapecache/core/allocator.h"
#include "tapecache/core/device.h"
#include "tapecache/core/forward_context.h"
#include "tapecache/gradcache/cached.h"
#include "tapecache/gradcache/grad_cache.h"
#include "tapecache/ops/linear.h"
#include "tapecache/ops/reduce.h"

using namespace tapecache;
using namespace tapecache::gradcache;
using namespace tapecache::losses;
using namespace tapecache::testing;

namespace {

/// Gradients and random state, to see that a step left them alone.
class Unchanged {
 public:
  explicit Unchanged(std::vector<Parameter> parameters) : parameters_(std::move(parameters)), random_(random_state()) {
    for (const Parameter& p : parameters_) {
      gradients_.push_back(p.gradient());
      values_.push_back(p.gradient().defined() ? doubles(p.gradient()) : std::vector<double>{});
    }
  }
  void check(bool with_random = true) const {
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      const Tensor& gradient = parameters_[i].gradient();
      BOOST_TEST(gradient.defined() == gradients_[i].defined());
      if (gradient.defined()) BOOST_TEST((doubles(gradient) == values_[i]), parameters_[i].name());
    }
    if (with_random) BOOST_TEST((random_state() == random_));
  }

 private:
  std::vector<Parameter> parameters_;
  std::vector<Tensor> gradients_;
  std::vector<std::vector<double>> values_;
  RandomState random_;
};

struct Stop : std::runtime_error {
  Stop() : std::runtime_error("stop") {}
};

}  // namespace

BOOST_AUTO_TEST_SUITE(gradcache_refusals)

BOOST_AUTO_TEST_CASE(an_exception_anywhere_leaves_all_as_it_was) {
  const ClipSetup setup(8, DType::kFloat64, 0.2);
  int calls = 0, stop_at = 0;
  const auto counting = [&](const Tensor& x) {
    if (++calls == stop_at) throw Stop();
    return setup.image(x);
  };
  const Loss loss = [&](std::span<const Variable> r) {
    if (++calls == stop_at) throw Stop();
    return clip_loss(r[0], r[1], {.scale = Scale::from_log(setup.log_scale)});
  };
  const std::vector<Tower> towers{{"image", setup.images, counting}, {"text", setup.texts, counting}};
  begin_random_step(4, 2);
  const std::vector<Parameter> parameters = joined({setup.image.parameters(), {setup.log_scale}});
  const auto fails_everywhere = [&] {
    const int total = 4 + 4 + 1 + 8;  // 4 chunks a tower forward, the loss, all again
    for (stop_at = 1; stop_at <= total; ++stop_at) {
      calls = 0;
      const Unchanged unchanged(parameters);
      BOOST_CHECK_THROW(cached_step(towers, loss, {{2}}), Stop);
      unchanged.check();
    }
  };
  fails_everywhere();
  calls = stop_at = 0;
  cached_step(towers, loss, {{2}});
  BOOST_TEST(calls == 17);
  fails_everywhere();
  for (stop_at = 1; stop_at <= 3; ++stop_at) {
    calls = 0;
    const Unchanged unchanged(parameters);
    BOOST_CHECK_THROW(direct_step(towers, loss), Stop);
    unchanged.check();
  }
}

BOOST_AUTO_TEST_CASE(an_exception_in_a_hook_leaves_all_as_it_was) {
  const ClipSetup setup(8, DType::kFloat64, 0.2);
  const std::vector<Parameter> parameters = joined({setup.image.parameters(), {setup.log_scale}});
  for (const bool with_gradients : {false, true}) {
    if (with_gradients) cached_step(setup.towers(), setup.loss(), {{2}});
    for (Parameter p : parameters) {
      p.add_hook([](Parameter& own) {
        own.mutable_gradient() = Tensor::zeros(own.value().shape(), own.value().dtype());
        throw Stop();
      });
      const Unchanged unchanged(parameters);
      BOOST_CHECK_THROW(cached_step(setup.towers(), setup.loss(), {{2}}), Stop);
      unchanged.check();
      BOOST_CHECK_THROW(direct_step(setup.towers(), setup.loss()), Stop);
      unchanged.check();
      p.clear_hooks();
    }
  }
}

BOOST_AUTO_TEST_CASE(out_of_memory_anywhere_leaves_all_as_it_was) {
  const ClipSetup setup(32, DType::kFloat64, 0.2);
  cached_step(setup.towers(), setup.loss(), {{8}});
  const std::size_t in_use = allocator().stats().current;
  allocator().reset_peak();
  { cached_step(setup.towers(), setup.loss(), {{8}}); }
  const std::size_t peak = allocator().stats().peak;
  int failures = 0;
  for (std::size_t limit = in_use; limit < peak; limit += 512) {
    const Unchanged unchanged(setup.parameters());
    const MemoryLimit tight(limit);
    try {
      cached_step(setup.towers(), setup.loss(), {{8}});
    } catch (const OutOfMemory&) {
      ++failures;
      unchanged.check();
    }
  }
  BOOST_TEST(failures > 10);
}

BOOST_AUTO_TEST_CASE(a_loss_that_is_not_finite) {
  const ClipSetup setup(8, DType::kFloat64, 0.2);
  cached_step(setup.towers(), setup.loss(), {{3}});
  for (const double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    int encoded = 0;
    const auto counting = [&](const Tensor& x) {
      ++encoded;
      return setup.image(x);
    };
    const std::vector<Tower> towers{{"image", setup.images, counting}, {"text", setup.texts, setup.text}};
    const Loss loss = [&](std::span<const Variable> r) {
      return ops::scale(clip_loss(r[0], r[1], {.scale = Scale::from_log(setup.log_scale)}), bad);
    };
    begin_random_step(1, 1);
    const Unchanged unchanged(setup.parameters());
    const StepResult result = cached_step(towers, loss, {{3}});
    BOOST_TEST((result.status == StepStatus::kNonFiniteLoss));
    BOOST_TEST(result.message.find("loss is") != std::string::npos);
    BOOST_TEST(encoded == 3);
    BOOST_TEST(result.parameters.empty());
    unchanged.check(false);
    const RandomState after = random_state();
    begin_random_step(1, 1);
    BOOST_TEST((direct_step(towers, loss).status == StepStatus::kNonFiniteLoss));
    BOOST_TEST((random_state() == after));
    unchanged.check(false);
  }
}

BOOST_AUTO_TEST_CASE(a_sample_that_spoils_the_loss_is_named) {
  const ClipSetup setup(8);
  const Tensor images = setup.images.clone();
  images.slice(5, 6).fill(std::numeric_limits<double>::quiet_NaN());
  const std::vector<Tower> towers{{"image", images, setup.image}, {"text", setup.texts, setup.text}};
  const StepResult cached = cached_step(towers, setup.loss(), {{2}});
  BOOST_TEST((cached.status == StepStatus::kNonFiniteLoss));
  BOOST_TEST(
      cached.message ==
      "the loss is nan; the representations of tower 'image' are not finite, first at sample 5, in chunk 2 of 4");
  const StepResult direct = direct_step(towers, setup.loss());
  BOOST_TEST(direct.message ==
             "the loss is nan; the representations of tower 'image' are not finite, first at sample 5");
  BOOST_TEST(accumulated_step(towers, setup.loss(), {{2}}).message ==
             "in group 2: the loss is nan; the representations of tower 'image' are not finite, first at sample 5");
}

BOOST_AUTO_TEST_CASE(a_cache_that_is_not_finite) {
  const ClipSetup setup(8);
  int encoded = 0;
  const auto counting = [&](const Tensor& x) {
    ++encoded;
    return setup.text(x);
  };
  const std::vector<Tower> towers{{"image", setup.images, setup.image}, {"text", setup.texts, counting}};
  // The root of 0 is finite and its slope is not: sample 5 alone is brought to 0.
  Tensor keep = Tensor::full({8, 1}, 1, DType::kFloat64);
  keep.slice(5, 6).fill(0);
  const Loss loss = [&](std::span<const Variable> r) {
    const Variable squares = ops::multiply(ops::multiply(r[1], r[1]), keep);
    return ops::add(ops::sum(ops::sqrt(squares)), ops::sum(r[0]));
  };
  const Unchanged unchanged(setup.parameters());
  const StepResult result = cached_step(towers, loss, {{2}});
  BOOST_TEST((result.status == StepStatus::kNonFiniteCache));
  BOOST_TEST(says({"'text'", "sample 5", "chunk 2 of 4"})(std::runtime_error(result.message)));
  BOOST_TEST(encoded == 4);
  unchanged.check(false);

  const auto refused = [&](const StepResult& other, const char* place) {
    BOOST_TEST((other.status == StepStatus::kNonFiniteCache));
    BOOST_TEST(says({"'text'", place})(std::runtime_error(other.message)), other.message);
    BOOST_TEST(other.parameters.empty());
    unchanged.check(false);
  };
  refused(direct_step(towers, loss), "sample 5");
  const Loss of_group = [&](std::span<const Variable> r) {
    const double kept = encoded % 4 == 3 ? 0 : 1;  // of the third group
    const Variable squares = ops::scale(ops::multiply(r[1], r[1]), kept);
    return ops::add(ops::sum(ops::sqrt(squares)), ops::sum(r[0]));
  };
  encoded = 0;
  refused(accumulated_step(towers, of_group, {{2}}), "in group 2");
  refused(cached_backward(std::vector<CachedBatch>{{"image", {cached(setup.image, setup.images)}},
                                                   {"text", {cached(setup.text, setup.texts)}}},
                          loss),
          "sample 5");
}

BOOST_AUTO_TEST_CASE(a_step_that_would_train_nothing) {
  const ClipSetup setup(4);
  for (Parameter p : setup.parameters()) p.set_requires_gradient(false);
  const auto refused = says({"step would train nothing", "not frozen"});
  BOOST_CHECK_EXCEPTION(cached_step(setup.towers(), setup.loss(), {{2}}), ValueError, refused);
  BOOST_CHECK_EXCEPTION(direct_step(setup.towers(), setup.loss()), ValueError, refused);
  BOOST_CHECK_EXCEPTION(accumulated_step(setup.towers(), setup.loss(), {{2}}), ValueError, refused);
  const std::vector<CachedBatch> batches{{"image", {cached(setup.image, setup.images)}},
                                         {"text", {cached(setup.text, setup.texts)}}};
  BOOST_CHECK_EXCEPTION(cached_backward(batches, setup.loss()), ValueError, refused);
}

BOOST_AUTO_TEST_CASE(what_changes_between_the_two_forwards) {
  const ClipSetup setup(6);
  Parameter w = setup.text.w1;
  const Loss changing = [&](std::span<const Variable> r) {
    w.mutable_value().fill(0.5);
    return clip_loss(r[0], r[1], {.scale = Scale::from_log(setup.log_scale)});
  };
  BOOST_CHECK_EXCEPTION(cached_step(setup.towers(), changing, {{2}}), ValueError, says({"'w1'", "'text'", "changed"}));
  Tensor images = setup.images;
  const Loss overwriting = [&](std::span<const Variable> r) {
    images.fill(0.5);
    return clip_loss(r[0], r[1], {.scale = Scale::from_log(setup.log_scale)});
  };
  BOOST_CHECK_EXCEPTION(cached_step(setup.towers(), overwriting, {{2}}), ValueError,
                        says({"input", "'image'", "changed"}));
  for (const Parameter& p : setup.parameters()) BOOST_TEST(!p.gradient().defined());
}

BOOST_AUTO_TEST_CASE(a_second_forward_that_differs) {
  const ClipSetup setup(6);
  int calls = 0;
  // A prompt that is there in one forward and not in the other.
  const auto drifting = [&](const Tensor& x) { return ops::scale(setup.image(x), ++calls > 3 ? 1.25 : 1.0); };
  const std::vector<Tower> towers{{"image", setup.images, drifting}, {"text", setup.texts, setup.text}};
  StepOptions options{{2}};
  options.check_recompute = true;
  BOOST_CHECK_EXCEPTION(cached_step(towers, setup.loss(), options), ValueError,
                        says({"'image'", "differs from the first by up to 0.", "samples [4, 6)"}));
  for (const Parameter& p : setup.parameters()) BOOST_TEST(!p.gradient().defined());
  check_equal(compare(setup.towers(), setup.loss(), options), 1e-12);

  calls = 0;
  const auto longer = [&](const Tensor& x) {
    const Variable y = setup.image(x);
    return ++calls > 3 ? ops::matmul(y, Variable(random_values({4, 3}, 1))) : y;
  };
  const std::vector<Tower> shapes{{"image", setup.images, longer}, {"text", setup.texts, setup.text}};
  BOOST_CHECK_EXCEPTION(cached_step(shapes, setup.loss(), {{2}}), ShapeError,
                        says({"second forward", "'image'", "[2, 3]"}));

  calls = 0;
  const auto drawing = [&](const Tensor& x) {
    const Variable y = setup.image(x);
    return ++calls > 3 ? ops::dropout(y, 0.5) : y;
  };
  const std::vector<Tower> draws{{"image", setup.images, drawing}, {"text", setup.texts, setup.text}};
  BOOST_CHECK_EXCEPTION(cached_step(draws, setup.loss(), {{2}}), ValueError, says({"'image'", "random draws"}));
}

BOOST_AUTO_TEST_CASE(the_encoder_knows_where_it_stands) {
  const ClipSetup setup(6);
  std::vector<std::string> seen;
  const auto asking = [&](const Tensor& x) {
    seen.push_back(std::string(forward_context().partial_batch ? "part" : "whole") +
                   (forward_context().recompute ? " again" : ""));
    return setup.image(x);
  };
  const std::vector<Tower> towers{{"image", setup.images, asking}, {"text", setup.texts, setup.text}};
  const auto run = [&](std::int64_t chunk) {
    seen.clear();
    cached_step(towers, setup.loss(), {{chunk}});
    return seen;
  };
  BOOST_TEST((run(3) == std::vector<std::string>{"part", "part", "part again", "part again"}));
  BOOST_TEST((run(6) == std::vector<std::string>{"whole", "whole again"}));
  seen.clear();
  direct_step(towers, setup.loss());
  BOOST_TEST((seen == std::vector<std::string>{"whole"}));
  BOOST_TEST(!forward_context().partial_batch);
}

BOOST_AUTO_TEST_CASE(options_out_of_range) {
  const ClipSetup setup(20);
  const auto refused = [&](const StepOptions& options, std::vector<std::string> words) {
    BOOST_CHECK_EXCEPTION(cached_step(setup.towers(), setup.loss(), options), ValueError, says(words));
  };
  refused({}, {"0 chunk sizes for 2 towers"});
  refused({{1, 2, 3}}, {"3 chunk sizes for 2 towers"});
  refused({{4, 0}}, {"chunk size 0", "'text'"});
  for (const std::int64_t tokens : {-1, 0})
    refused({.cut = ChunkTokens{tokens, {4}}}, {"chunks of", std::to_string(tokens)});
  refused({.cut = MemoryPlan{{4}, 0, -1}}, {"chunks of -1 tokens"});
  StepOptions odd{{12}};
  odd.reproducible_block = 8;
  refused(odd, {"12", "multiple of 8"});
  odd.reproducible_block = 5;
  refused(odd, {"12", "multiple of 5"});
  odd.reproducible_block = -1;
  refused(odd, {"reproducible_block is -1", "at least 1"});
  StepOptions planned = odd;
  planned.cut = MemoryBudget{1 << 20};
  BOOST_CHECK_EXCEPTION(plan_memory(setup.towers(), planned), ValueError, says({"reproducible_block is -1"}));
  odd.reproducible_block = 8;
  odd.cut = ChunkTokens{64};
  refused(odd, {"tokens", "reproducible"});
  BOOST_CHECK_EXCEPTION(plan_memory(setup.towers(), {}), ValueError, says({"MemoryBudget"}));
  StepOptions none;
  none.cut = MemoryBudget{};
  refused(none, {"cached_step", "memory budget of 0 bytes"});
  StepOptions plan;
  plan.cut = MemoryPlan{{4}, -1};
  refused(plan, {"keeps -1 chunks"});
  StepOptions by_tokens;
  by_tokens.cut = ChunkTokens{16};
  refused(by_tokens, {"chunks by tokens", "'image'", "no lengths"});
}

BOOST_AUTO_TEST_CASE(what_is_missing_is_named) {
  const ClipSetup setup(4);
  const std::vector<Tower> towers = setup.towers();
  const Loss none;
  const StepOptions options{{2}};
  BOOST_CHECK_EXCEPTION(cached_step(towers, none, options), ValueError, says({"cached_step: the loss is an empty"}));
  BOOST_CHECK_EXCEPTION(direct_step(towers, none), ValueError, says({"direct_step: the loss is an empty"}));
  BOOST_CHECK_EXCEPTION(accumulated_step(towers, none, {{2}}), ValueError, says({"accumulated_step: the loss is"}));
  BOOST_CHECK_EXCEPTION(GradCache(none, options), ValueError, says({"GradCache: the loss is an empty"}));
  const std::function<Variable(const Tensor&)> no_encoder;
  BOOST_CHECK_EXCEPTION(Tower("image", setup.images, no_encoder), ValueError, says({"'image'", "encoder is an empty"}));
  BOOST_CHECK_EXCEPTION(Tower::from_chunks("image", std::vector{setup.images}, no_encoder), ValueError,
                        says({"'image'"}));
  const std::vector<CachedBatch> batches{{"image", {cached(setup.image, setup.images)}}};
  BOOST_CHECK_EXCEPTION(cached_backward(batches, none), ValueError, says({"cached_backward: the loss is an empty"}));
  using Pair = std::pair<Tensor, Tensor>;
  BOOST_CHECK_EXCEPTION(Tower("pair", Pair(Tensor::zeros({3, 2}), Tensor::zeros({4, 2})),
                              [](const Tensor& a, const Tensor&) { return Variable(a); }),
                        ShapeError, says({"tower 'pair'", "3 samples", "4"}));
  BOOST_CHECK_EXCEPTION(Tower("image", Tensor::scalar(1.0), setup.image), ShapeError,
                        says({"tower 'image'", "axis 0"}));
  BOOST_CHECK_EXCEPTION(Tower("image", Tensor(), setup.image), ShapeError, says({"tower 'image'"}));
  const std::vector<Tower> namesakes{{"a", setup.images, setup.image}, {"a", setup.texts, setup.text}};
  BOOST_CHECK_EXCEPTION(direct_step(namesakes, setup.loss()), ValueError, says({"two towers are named 'a'"}));
}

BOOST_AUTO_TEST_CASE(a_comparison_of_nothing_is_refused) {
  const ClipSetup setup(4);
  const std::vector<Parameter> another{Parameter("another", Tensor::scalar(1.0))};
  BOOST_CHECK_EXCEPTION(compare(setup.towers(), setup.loss(), {{2}}, another), ValueError,
                        says({"neither step", "the 1 parameters", "nothing to compare"}));
  BOOST_CHECK_EXCEPTION(compare(setup.towers(), setup.loss(), {{2}}, {}), ValueError, says({"the 0 parameters"}));
}

BOOST_AUTO_TEST_SUITE_END()
