#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "captured_training.h"
#include "tapecache/core/allocator.h"
#include "tapecache/core/error.h"
#include "tapecache/core/value_checks.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/reduce.h"

// Steps that are recorded as CUDA graphs and replayed: against the same steps done one by one.

using namespace tapecache;
using namespace tapecache::gradcache;
using namespace tapecache::testing;

BOOST_AUTO_TEST_SUITE(cuda)

BOOST_AUTO_TEST_CASE(replayed_training_equals_that_step_by_step, *on_device) {
  // Each way to step and each loss: a cached step takes its loss in one way whatever the precision of its towers.
  for (const auto& [kind, tiled] : {std::pair{Kind::kDirect, false},
                                    {Kind::kDirect, true},
                                    {Kind::kCached, false},
                                    {Kind::kCachedBFloat16, true}}) {
    BOOST_TEST_CONTEXT("kind " << static_cast<int>(kind) << ", tiled " << tiled) {
      Both both(kind, tiled);
      std::vector<double> losses;
      for (std::uint32_t t = 0; t < kSteps; ++t) {
        both.step(t);
        BOOST_TEST(both.captured.captured() == (t > 0));
        both.check_alike();
        losses.push_back(both.replayed.result.loss.item());
      }
      BOOST_TEST(losses[kSteps - 1] != losses[kSteps - 2]);
      for (const double loss : losses) BOOST_TEST(std::isfinite(loss));
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
      BOOST_TEST(std::isnan(both.replayed.result.loss.item()));
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
    BOOST_CHECK_EXCEPTION(both.replayed.result.loss.item(), ValueError,
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
  CapturedStep own(
      kCuda, [&] { begin_random_step(kSeed, 99), draw(); }, kSeed);
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
      {[&] { kCuda.synchronize(); }, "waits for the device"},
      {[&] { train::gradient_norm(std::span(&p, 1)).item(); }, "waits for the device"},
      {[&] { training.step(); }, "step (not deferred): waits for the device"},
      {[&] { adamw.step(0.1); }, "AdamW: a learning rate of the host's"},
      {[&] { sgd.step(0.1); }, "Sgd: a learning rate of the host's"},
      {[&] { sgd.step(training.rate, 0.5); }, "Sgd: a gradient scale of the host's"},
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
  const Device::MemoryStats before = memory.stats();
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

BOOST_AUTO_TEST_SUITE_END()
