#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "attack.h"
#include "gradcache_checks.h"
#include "tapecache/autograd/function.h"
#include "tapecache/core/allocator.h"
#include "tapecache/core/forward_context.h"
#include "tapecache/gradcache/cached.h"
#include "tapecache/gradcache/grad_cache.h"
#include "tapecache/ops/reduce.h"

using namespace tapecache;
using namespace tapecache::gradcache;
using namespace tapecache::losses;
using namespace tapecache::testing;

namespace {

enum class Outputs { kOne, kSeveral };

/// Two towers with dropout, a count of their forwards in a buffer, and a loss with a buffer and a parameter of its own.
struct Setup {
  static constexpr std::int64_t kSamples = 24;

  Encoder image, text;
  Parameter log_scale;
  Tensor images, texts, forwards, center;
  Outputs outputs;
  bool checkpointed = false;
  std::vector<Tensor> values, gradients;

  explicit Setup(Outputs o, DType dtype = DType::kFloat64)
      : image(10, dtype, 0.2, 6, 40, 4),
        text(20, dtype, 0.2, 6, 40, 4),
        log_scale("log_scale", Tensor::full({}, 1.5, dtype)),
        images(random_values({kSamples, 6}, 30, dtype)),
        texts(random_values({kSamples, 6}, 31, dtype)),
        forwards(Tensor::zeros({2}, DType::kFloat64)),
        center(Tensor::zeros({4}, dtype)),
        outputs(o) {
    image.w1.set_name("image.w1"), image.b1.set_name("image.b1"), image.w2.set_name("image.w2");
    for (const Parameter& p : parameters()) {
      values.push_back(p.value().clone());
      gradients.push_back(random_values(p.value().shape(), 40 + gradients.size(), dtype));
    }
  }

  std::vector<Parameter> parameters() const { return joined({image.parameters(), text.parameters(), {log_scale}}); }
  Changeable changes() const { return {parameters(), {{"forwards", forwards}, {"center", center}}}; }

  void prepare() {
    begin_random_step(5, 3);
    forwards.fill(0);
    center.fill(0.25);
    std::size_t i = 0;
    for (Parameter p : parameters()) {
      p.mutable_value().copy_from(values[i]);
      // One has none yet.
      if (i == 1) p.clear_gradient();
      else p.mutable_gradient() = gradients[i].clone();
      ++i;
    }
  }

  Encoded encode(const Encoder& encoder, int which, const Tensor& x) const {
    if (!forward_context().recompute) {
      Tensor count = forwards.slice(which, which + 1);
      before_change(count);
      count.mutable_data<double>()[0] += static_cast<double>(x.size(0));
    }
    const auto layers = [encoder, x](std::span<const Variable>) { return std::vector<Variable>{encoder(x)}; };
    const Variable value = checkpointed ? checkpoint(layers, {}).front() : encoder(x);
    if (outputs == Outputs::kOne) return {{{"", value}}};
    return {{{"value", value}, {"doubled", ops::scale(value, 2)}},
            {{"size", ops::sum(ops::multiply(value, value), {1}), 0.5}, {"sum", ops::sum(value, {1}), 0.25}}};
  }
  std::vector<Tower> towers() const {
    return {{"image", images, [this](const Tensor& x) { return encode(image, 0, x); }},
            {"text", texts, [this](const Tensor& x) { return encode(text, 1, x); }}};
  }
  Loss loss() const {
    return [this](std::span<const Variable> r) {
      const Variable& texts_encoded = outputs == Outputs::kOne ? r[1] : r[2];
      before_change(center);
      Tensor moved = center;
      moved.accumulate(ops::mean(Variable(texts_encoded.value()), {0}).value());
      const Variable apart = ops::subtract(texts_encoded, Variable(center.clone()));
      const ClipOptions trained{.scale = Scale::from_log(log_scale)};
      Variable sum = clip_loss(r[0], apart, trained);
      if (outputs == Outputs::kSeveral) sum = ops::add(sum, ops::scale(clip_loss(r[1], r[3], trained), 0.5));
      return sum;
    };
  }

  Work work(const std::string& name, std::function<double()> run, double tolerance = 0) {
    return {name + (outputs == Outputs::kOne ? "" : " of several outputs"), changes(), [this] { prepare(); },
            std::move(run), tolerance};
  }
};

double done(const StepResult& result) {
  if (result.status != StepStatus::kDone) return std::numeric_limits<double>::quiet_NaN();
  return result.loss.item();
}

/// f64 sums in another order.
constexpr double kReordered = 1e-12;

/// In CI a part of the allocations of objects, of which there are many.
void attack_both(const Work& work, std::int64_t objects_stride = 37) {
  attack(work, Memory::kTensors);
  attack(work, Memory::kObjects, objects_stride);
}

/// What a step on one tape uses beside what is there before it.
std::size_t bytes_of_whole(Setup& setup) {
  setup.prepare();
  const std::size_t before = allocator().stats().current;
  return direct_step(setup.towers(), setup.loss()).peak_bytes - before;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(attack_steps)

BOOST_AUTO_TEST_CASE(every_way_to_take_a_step) {
  for (const Outputs outputs : {Outputs::kOne, Outputs::kSeveral}) {
    Setup setup(outputs);
    attack_both(setup.work("cached_step", [&] { return done(cached_step(setup.towers(), setup.loss(), {{10}})); }));
    attack_both(setup.work("direct_step", [&] { return done(direct_step(setup.towers(), setup.loss())); }));
    attack_both(
        setup.work("accumulated_step", [&] { return done(accumulated_step(setup.towers(), setup.loss(), {{8}})); }));
    attack_both(setup.work("reproducible cached_step", [&] {
      return done(
          cached_step(setup.towers(), setup.loss(), {.cut = {8}, .reproducible_block = 4, .check_recompute = true}));
    }));
    attack_both(setup.work("cached_step off-loading", [&] {
      return done(cached_step(setup.towers(), setup.loss(), {.cut = {10}, .offload = true}));
    }));
  }
}

BOOST_AUTO_TEST_CASE(steps_that_keep_tapes_and_drop_them) {
  for (const Outputs outputs : {Outputs::kOne, Outputs::kSeveral}) {
    Setup setup(outputs);
    // From no tape kept to all.
    for (const std::int64_t kept : {1, 3, 6}) {
      const StepOptions options{.cut = MemoryPlan{{8}, kept}};
      attack_both(setup.work(
          fmt::format("cached_step that keeps {} tapes", kept),
          [&] { return done(cached_step(setup.towers(), setup.loss(), options)); }, kReordered));
    }
    attack_both(setup.work(
        "cached_step that may halve its chunks",
        [&] { return done(cached_step(setup.towers(), setup.loss(), {.cut = {16}, .retry_smaller_chunks = true})); },
        kReordered));
  }
}

BOOST_AUTO_TEST_CASE(steps_within_a_budget) {
  for (const Outputs outputs : {Outputs::kOne, Outputs::kSeveral}) {
    Setup setup(outputs);
    const std::size_t whole = bytes_of_whole(setup);
    for (const double share : {0.8, 1.5}) {
      const auto within = [&] {
        const auto bytes = allocator().stats().current + static_cast<std::size_t>(share * static_cast<double>(whole));
        return StepOptions{.cut = MemoryBudget{bytes}};
      };
      attack_both(setup.work(
                      fmt::format("cached_step within {} of what one tape takes", share),
                      [&] { return done(cached_step(setup.towers(), setup.loss(), within())); }, kReordered),
                  211);
      attack_both(setup.work(
                      fmt::format("GradCache within {} of what one tape takes", share),
                      [&] {
                        GradCache steps(setup.loss(), within());
                        return done(steps.step(setup.towers()));
                      },
                      kReordered),
                  211);
    }
  }
}

BOOST_AUTO_TEST_CASE(sub_batches_by_themselves) {
  for (const Outputs outputs : {Outputs::kOne, Outputs::kSeveral}) {
    Setup setup(outputs);
    attack_both(setup.work("cached and cached_backward", [&] {
      const auto encode = [&](int which) {
        return
            [&setup, which](const Tensor& x) { return setup.encode(which == 0 ? setup.image : setup.text, which, x); };
      };
      // Random draws and buffers of a forward that is done are the caller's to undo.
      const RandomState random = random_state();
      UndoLog buffers;
      try {
        std::vector<CachedBatch> batches{{"image", {}}, {"text", {}}};
        for (int which = 0; which < 2; ++which) {
          const Tensor& samples = which == 0 ? setup.images : setup.texts;
          std::vector<CachedForward>& chunks = batches[static_cast<std::size_t>(which)].chunks;
          for (std::int64_t i = 0; i < Setup::kSamples; i += 10) {
            const std::int64_t end = std::min(i + 10, Setup::kSamples);
            chunks.push_back(
                cached(encode(which), samples.slice(i, end), {.after = chunks.empty() ? nullptr : &chunks.back()}));
          }
        }
        const double loss = done(cached_backward(batches, setup.loss()));
        buffers.keep();
        return loss;
      } catch (...) {
        random_state() = random;
        throw;
      }
    }));
  }
}

BOOST_AUTO_TEST_CASE(steps_of_checkpointed_encoders) {
  Setup setup(Outputs::kSeveral);
  setup.checkpointed = true;
  attack_both(
      setup.work("cached_step, checkpointed", [&] { return done(cached_step(setup.towers(), setup.loss(), {{10}})); }));
  attack_both(setup.work("direct_step, checkpointed", [&] { return done(direct_step(setup.towers(), setup.loss())); }));
}

BOOST_AUTO_TEST_CASE(steps_under_autocast) {
  Setup setup(Outputs::kSeveral, DType::kFloat32);
  for (const DType precision : {DType::kBFloat16, DType::kFloat16}) {
    attack_both(setup.work("cached_step under autocast", [&] {
      return done(cached_step(setup.towers(), setup.loss(), {.cut = {10}, .autocast = precision}));
    }));
  }
}

BOOST_AUTO_TEST_CASE(a_self_check) {
  Setup setup(Outputs::kOne);
  attack_both(setup.work("GradCache with a self-check", [&] {
    GradCache steps(setup.loss(), {{10}}, {.every = 1, .samples = 8});
    return done(steps.step(setup.towers()));
  }));
}

BOOST_AUTO_TEST_SUITE_END()
