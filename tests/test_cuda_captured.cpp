#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cuda_gradcache.h"
#include "small_model.h"
#include "tapecache/core/allocator.h"
#include "tapecache/core/captured_step.h"
#include "tapecache/core/error.h"
#include "tapecache/core/random.h"
#include "tapecache/gradcache/tiled_losses.h"
#include "tapecache/ops/reduce.h"
#include "tapecache/ops/sample_uniform.h"
#include "tapecache/train/clip_gradients.h"
#include "tapecache/train/late_loss_scaler.h"
#include "tapecache/train/optimizer.h"
#include "tapecache/train/schedule.h"

// Steps that are recorded as CUDA graphs and replayed: against the same steps done one by one.

using namespace tapecache;
using namespace tapecache::gradcache;
using namespace tapecache::testing;

namespace {

constexpr std::uint64_t kSeed = 11;
constexpr std::int64_t kSamples = 6, kTokens = 12, kSteps = 6;

struct Batch {
  Tensor images, ids, valid;
};

Batch batch_of(std::uint32_t step) {
  Batch batch{random_values({kSamples, 3, 16, 16}, 100 + step, DType::kFloat32),
              Tensor::empty({kSamples, kTokens}, DType::kInt32), Tensor::zeros({kSamples, kTokens}, DType::kBool)};
  for (std::int64_t i = 0; i < kSamples; ++i) {
    const std::int64_t length = 1 + (i * 7 + step) % kTokens;
    for (std::int64_t t = 0; t < kTokens; ++t) {
      batch.ids.mutable_data<std::int32_t>()[i * kTokens + t] = static_cast<std::int32_t>((i + 3 * t + step) % 30);
      batch.valid.mutable_data<bool>()[i * kTokens + t] = t < length;
    }
  }
  return batch;
}

enum class Kind { kDirect, kCached, kCachedBFloat16 };

/// A model in training, whose inputs and learning rate are at fixed places.
struct Training {
  SmallModel model{kSamples};
  Batch batch = batch_of(0);
  Tensor rate = Tensor::zeros({}, DType::kFloat64, kCuda), norm;
  std::optional<train::AdamW> optimizer;
  train::LateLossScaler scaler{kCuda, {.initial_scale = 1024, .growth_interval = 3}};
  std::vector<Tower> towers;
  StepOptions options = there();
  Kind kind;
  bool tiled, clear = true;
  StepResult result;

  explicit Training(Kind k, bool tiled_loss = false) : kind(k), tiled(tiled_loss) {
    model.clip.to(kCuda);
    batch = {batch.images.to(kCuda), batch.ids.to(kCuda), batch.valid.to(kCuda)};
    optimizer.emplace(model.clip.parameters(), train::AdamWOptions{.weight_decay = 0.1});
    towers = {{"image", batch.images, [this](const Tensor& x) { return model.clip.encode_image(x); }},
              {"text", models::TokenBatch{batch.ids, batch.valid},
               [this](const models::TokenBatch& x) { return model.clip.encode_text(x); }}};
    options.deferred = true;
    options.late_scale = scaler.scale();
    options.memory_plan = MemoryPlan{{4, 3}, 1};
    if (kind == Kind::kCachedBFloat16) options.autocast = DType::kBFloat16;
  }

  void step() {
    const Loss loss = [this](std::span<const Variable> r) {
      return tiled ? tiled_clip_loss(r[0], r[1], model.clip.logit_scale(), {4, 4})
                   : clip_loss(r[0], r[1], model.clip.logit_scale());
    };
    result = kind == Kind::kDirect ? direct_step(towers, loss, options) : cached_step(towers, loss, options);
    norm = train::clip_gradients(model.clip.parameters(), 0.5 * 1024);
    optimizer->step(ops::LateNumbers{rate, scaler.gradient_scale(), result.non_finite});
    scaler.update(result.non_finite);
    if (clear) optimizer->clear_gradients();
    Parameter scale = model.clip.logit_scale();
    clamp_log_scale(scale);
  }

  void prepare(std::uint32_t t, const Batch& next) {
    batch.images.copy_from(next.images.to(kCuda));
    batch.ids.copy_from(next.ids.to(kCuda));
    batch.valid.copy_from(next.valid.to(kCuda));
    rate.fill(train::warmup_cosine(t, 2, 10, 1e-2));
  }
  void prepare(std::uint32_t t) { prepare(t, batch_of(t)); }
};

/// A step as it is, and the same recorded.
struct Both {
  Training plain, replayed;
  CapturedStep captured;

  template <class... Arguments>
  explicit Both(Arguments... arguments)
      : plain(arguments...), replayed(arguments...), captured(kCuda, [this] { replayed.step(); }, kSeed) {}

  void step(std::uint32_t t, const Batch& batch) {
    plain.prepare(t, batch);
    begin_random_step(kSeed, t);
    plain.step();
    const RandomState after = random_state();
    replayed.prepare(t, batch);
    const std::uint64_t waits = device_waits();
    captured.replay(t);
    BOOST_TEST(device_waits() == waits);
    BOOST_TEST((random_state() == after));
  }
  void step(std::uint32_t t) { step(t, batch_of(t)); }

  void check_alike() {
    const auto expected = plain.model.clip.parameters(), found = replayed.model.clip.parameters();
    for (std::size_t i = 0; i < expected.size(); ++i) {
      BOOST_TEST(same_bits(found[i].value(), expected[i].value()), expected[i].name());
    }
    const auto state = plain.optimizer->state();
    for (const auto& [name, tensor] : replayed.optimizer->state()) BOOST_TEST(same_bits(tensor, state.at(name)), name);
    BOOST_TEST(replayed.result.device_loss.item() == plain.result.device_loss.item());
    BOOST_TEST(replayed.norm.item() == plain.norm.item());
    BOOST_TEST(replayed.scaler.scale().item() == plain.scaler.scale().item());
  }
};

/// Takes what memory there is free, and fills it with NaN.
std::vector<Tensor> occupied() {
  std::vector<Tensor> tensors;
  for (const std::int64_t n : {16, 100, 1000, 5000, 20'000, 100'000}) {
    for (int i = 0; i < 30; ++i) tensors.push_back(Tensor::full({n}, std::nan(""), DType::kFloat32, kCuda));
  }
  return tensors;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(cuda)

BOOST_AUTO_TEST_CASE(replayed_training_equals_that_step_by_step, *on_device) {
  for (const Kind kind : {Kind::kDirect, Kind::kCached, Kind::kCachedBFloat16}) {
    for (const bool tiled : {false, true}) {
      BOOST_TEST_CONTEXT("kind " << static_cast<int>(kind) << ", tiled " << tiled) {
        Both both(kind, tiled);
        std::vector<double> losses;
        for (std::uint32_t t = 0; t < kSteps; ++t) {
          both.step(t);
          BOOST_TEST(both.captured.captured() == (t > 0));
          both.check_alike();
          losses.push_back(both.replayed.result.device_loss.item());
        }
        BOOST_TEST(losses[kSteps - 1] != losses[kSteps - 2]);
        for (const double loss : losses) BOOST_TEST(std::isfinite(loss));
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(other_allocations_do_not_disturb_a_replay, *on_device) {
  Both both(Kind::kCached);
  std::vector<std::vector<Tensor>> kept;
  for (std::uint32_t t = 0; t < kSteps; ++t) {
    both.step(t);
    kept.push_back(occupied());
    if (t % 2 == 0) kept.clear();
    both.check_alike();
  }
}

BOOST_AUTO_TEST_CASE(a_step_that_is_not_finite_changes_nothing, *on_device) {
  for (const Kind kind : {Kind::kDirect, Kind::kCached}) {
    Both both(kind);
    both.plain.optimizer.emplace(both.plain.model.clip.parameters(), train::AdamWOptions{.weight_decay = 0.1});
    for (std::uint32_t t = 0; t < kSteps; ++t) {
      Batch batch = batch_of(t);
      if (t == 3) batch.images.slice(2, 3).fill(std::numeric_limits<double>::quiet_NaN());
      if (t != 3) {
        both.step(t, batch);
        both.check_alike();
        continue;
      }
      both.replayed.prepare(t, batch);
      both.captured.replay(t);
      BOOST_TEST(std::isnan(both.replayed.result.device_loss.item()));
      BOOST_TEST(both.replayed.result.non_finite.item() > 0);
      BOOST_TEST(both.replayed.scaler.scale().item() == 1024);
      both.plain.scaler.update(both.replayed.result.non_finite);
    }
    BOOST_TEST(both.replayed.result.non_finite.item() == 0);
    BOOST_TEST(both.replayed.optimizer->state().begin()->second.defined());
  }
}

BOOST_AUTO_TEST_CASE(a_bad_value_in_a_replay_is_named_and_changes_nothing, *on_device) {
  Both both(Kind::kCached);
  for (std::uint32_t t = 0; t < kSteps; ++t) {
    if (t != 4) {
      both.step(t);
      both.check_alike();
      continue;
    }
    Batch batch = batch_of(t);
    batch.ids.mutable_data<std::int32_t>()[kTokens + 5] = 30;
    both.replayed.prepare(t, batch);
    both.captured.replay(t);
    BOOST_CHECK_EXCEPTION(both.replayed.result.device_loss.item(), ValueError,
                          says({"token 5 of sample 1 is 30, expected an id from 0 to 29"}));
    both.plain.scaler.update(both.replayed.result.non_finite);  // for a scale it is a step like others
  }
}

BOOST_AUTO_TEST_CASE(gradients_of_replays_accumulate, *on_device) {
  Both both(Kind::kCached);
  both.plain.clear = both.replayed.clear = false;
  for (std::uint32_t t = 0; t < kSteps; ++t) {
    both.step(t);
    both.check_alike();
    const auto expected = both.plain.model.clip.parameters(), found = both.replayed.model.clip.parameters();
    for (std::size_t i = 0; i < expected.size(); ++i) {
      BOOST_TEST(same_bits(found[i].gradient(), expected[i].gradient()), expected[i].name());
    }
  }
}

BOOST_AUTO_TEST_CASE(draws_of_replays_are_those_of_their_step_number, *on_device) {
  const Tensor x = random_values({5, 33}, 1, DType::kFloat32).to(kCuda);
  Tensor dropped, path, uniform;
  const auto draw = [&] {
    dropped = ops::dropout(Variable(x), 0.4).value();
    path = ops::drop_path(Variable(x), 0.4).value();
    uniform = ops::sample_uniform(5, 9, kCuda);
  };
  CapturedStep step(kCuda, draw, kSeed);
  std::vector<Tensor> seen;
  for (const std::uint32_t t : {0u, 1u, 7u, 2'147'483'650u, 4'294'967'295u, 1u}) {
    step.replay(t);
    const std::vector<Tensor> found{dropped, path, uniform};
    const std::vector<Tensor> values{found[0].clone(), found[1].clone(), found[2].clone()};
    begin_random_step(kSeed, t);
    draw();
    BOOST_TEST(same_bits(values[0], dropped));
    BOOST_TEST(same_bits(values[1], path));
    BOOST_TEST(same_bits(values[2], uniform));
    dropped = found[0], path = found[1], uniform = found[2];
    for (const Tensor& before : seen) BOOST_TEST((t == 1 || !same_bits(before, values[2])));
    seen.push_back(values[2]);
  }
  // Within the step too, where it begins one of its own.
  CapturedStep own(kCuda, [&] { begin_random_step(kSeed, 99), draw(); }, kSeed);
  for (const std::uint32_t t : {4u, 5u, 6u}) {
    own.replay(t);
    const Tensor found = uniform.clone();
    begin_random_step(kSeed, t);
    BOOST_TEST((t == 4 || same_bits(ops::dropout(Variable(x), 0.4).value(), dropped)));
  }
}

BOOST_AUTO_TEST_CASE(a_captured_step_may_not_wait, *on_device) {
  const Tensor x = Tensor::full({}, 2, DType::kFloat32, kCuda);
  const Parameter p("p", Tensor::full({3}, 2, DType::kFloat32, kCuda));
  Parameter(p).mutable_gradient() = p.value().clone();
  train::AdamW adamw({p});
  train::Sgd sgd({p});
  Training training(Kind::kCached);
  training.options.deferred = false;
  const std::pair<std::function<void()>, std::string> cases[] = {
      {[&] { x.item(); }, "item: waits for the device, which a captured step may not"},
      {[&] { x.to(Device::cpu()); }, "copy to the host: waits for the device"},
      {[&] { first_non_finite(x); }, "waits for the device"},
      {[&] { synchronize(kCuda); }, "waits for the device"},
      {[&] { ops::squared_norm(std::span(&x, 1)); }, "waits for the device"},
      {[&] { training.step(); }, "step (not deferred): waits for the device"},
      {[&] { adamw.step(0.1); }, "AdamW: a learning rate of the host's"},
      {[&] { sgd.step(0.1); }, "Sgd: a learning rate of the host's"},
      {[&] { CapturedStep(kCuda, [] {}).replay(0); }, "captured step: replayed while"},
  };
  for (const auto& [call, message] : cases) {
    BOOST_TEST_CONTEXT(message) {
      bool recording = false;
      CapturedStep step(kCuda, [&, &f = call] {
        Tensor::full({1000}, 1, DType::kFloat32, kCuda);
        if (std::exchange(recording, true)) f();
      });
      step.replay(0);
      const std::size_t in_use = allocator(kCuda).stats().current;
      for (int i = 0; i < 2; ++i) BOOST_CHECK_EXCEPTION(step.replay(1), Error, says({message}));
      BOOST_TEST(!step.captured());
      BOOST_TEST(!CapturedStep::is_capturing());
      BOOST_TEST(x.item() == 2);
      training.result = {};
      training.optimizer->clear_gradients();
      BOOST_TEST(allocator(kCuda).stats().current <= in_use);
    }
  }
}

BOOST_AUTO_TEST_CASE(memory_of_a_captured_step_returns_with_it, *on_device) {
  Allocator& memory = allocator(kCuda);
  const Tensor x = random_values({300, 300}, 1, DType::kFloat32).to(kCuda);
  Tensor y;
  memory.release_cache();
  const MemoryStats before = memory.stats();
  for (const bool result_outlives : {false, true}) {
    {
      CapturedStep step(kCuda, [&] { y = ops::scale(ops::tanh(ops::tanh(Variable(x))), 3).value(); });
      for (std::uint32_t t = 0; t < 4; ++t) step.replay(t);
      BOOST_TEST(step.captured());
      if (!result_outlives) y = {};
    }
    if (result_outlives) {
      BOOST_TEST(same_bits(y, ops::scale(ops::tanh(ops::tanh(Variable(x))), 3).value()));
      y = {};
    }
    BOOST_TEST(memory.stats().current == before.current);
    memory.release_cache();
    BOOST_TEST(memory.stats().cached == before.cached);
  }
}

BOOST_AUTO_TEST_CASE(a_captured_step_reads_what_is_at_its_places, *on_device) {
  Tensor x = Tensor::full({4}, 1, DType::kFloat32, kCuda), y;
  const Tensor host = vector_of({1, 2, 3, 4}).to(DType::kFloat32);
  CapturedStep step(kCuda, [&] {
    Tensor there = host.clone().to(kCuda);  // gone when the step is replayed
    y = ops::add(Variable(x), Variable(there)).value();
  });
  for (const double value : {1.0, 5.0, -2.0, 7.0}) {
    x.fill(value);
    step.replay(0);
    const std::vector<Tensor> others = occupied();
    check_equal(y, {value + 1, value + 2, value + 3, value + 4});
  }
  x = {};
}

BOOST_AUTO_TEST_CASE(on_the_cpu_a_step_is_called) {
  int calls = 0;
  Tensor drawn;
  CapturedStep step(Device::cpu(), [&] { ++calls, drawn = ops::sample_uniform(2, 3); }, kSeed);
  for (const std::uint32_t t : {3u, 4u, 5u}) {
    step.replay(t);
    begin_random_step(kSeed, t);
    BOOST_TEST(same_bits(drawn, ops::sample_uniform(2, 3)));
  }
  BOOST_TEST(calls == 3);
  BOOST_TEST(!step.captured());
}

BOOST_AUTO_TEST_SUITE_END()
