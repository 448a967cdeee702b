#include <functional>
#include <span>
#include <string>
#include <vector>

#include "cuda_device.h"
#include "gradcache_checks.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/core/captured_step.h"
#include "tapecache/core/random.h"
#include "tapecache/losses/losses.h"
#include "tapecache/ops/maxsim.h"

// Losses that depend on values of a device, labels or a guide's representations: without a wait, and in captured steps.

using namespace tapecache;
using namespace tapecache::gradcache;
using namespace tapecache::losses;
using namespace tapecache::testing;

namespace {

constexpr std::int64_t kSamples = 8, kWidth = 4;

/// A loss with the values on a device that it depends on, which may be filled anew.
struct Case {
  std::string name;
  std::vector<Tensor> constants;
  std::function<Variable(std::span<const Variable>, std::span<const Tensor>)> loss;
  std::function<std::vector<Tensor>(std::uint64_t)> values;  // for the constants, on the host

  Variable operator()(std::span<const Variable> r) const { return loss(r, constants); }
  void fill(std::uint64_t step) {
    const std::vector<Tensor> next = values(step);
    for (std::size_t i = 0; i < next.size(); ++i) constants[i].copy_from(next[i].to(constants[i].device()));
  }
};

Tensor labels_of(std::uint64_t step, DType dtype) {
  std::vector<std::int64_t> labels;
  for (std::uint64_t i = 0; i < kSamples; ++i) labels.push_back(static_cast<std::int64_t>(i * (step + 2) % 5) - 2);
  return Tensor::from(labels, {kSamples}).to(dtype);
}

std::vector<Case> cases(Device device) {
  std::vector<Case> all;
  const auto add = [&](const std::string& name, auto values, auto loss) {
    std::vector<Tensor> constants;
    for (const Tensor& t : values(0)) constants.push_back(t.to(device));
    all.push_back({name, constants, loss, values});
  };
  for (const DType dtype : {DType::kInt32, DType::kInt64}) {
    add(
        std::string("sup_con, ").append(name(dtype)),
        [=](std::uint64_t step) { return std::vector{labels_of(step, dtype)}; },
        [](std::span<const Variable> r, std::span<const Tensor> c) {
          return sup_con(r[0], c[0], {.scale = Scale::from_temperature(0.3)});
        });
  }
  const auto guides = [](std::uint64_t step) {
    return std::vector{random_values({kSamples, 3}, 20 + step), random_values({kSamples, 3}, 40 + step)};
  };
  for (const GistOptions& options :
       {GistOptions{.scale = 5}, {.scale = 5, .margin = 0.3}, {.scale = 5, .margin = 0.1, .relative = true}}) {
    add("gist_loss, margin " + std::to_string(options.margin), guides,
        [=](std::span<const Variable> r, std::span<const Tensor> c) {
          return gist_loss(r[0], r[1], c[0], c[1], options);
        });
  }
  const auto hard = [](std::uint64_t step) {
    return std::vector{random_values({kSamples / 2, 3}, 20 + step), random_values({kSamples, 3}, 40 + step)};
  };
  add("gist_loss, hard negatives", hard, [](std::span<const Variable> r, std::span<const Tensor> c) {
    return gist_loss(ops::scale(r[0], 1), r[1], c[0], c[1], {.scale = 5});
  });
  const auto ids = [](std::uint64_t step) {
    return std::vector{labels_of(step, DType::kInt64), labels_of(1, DType::kInt32)};
  };
  const auto equal_of = [](std::span<const Tensor> c) {
    return ops::EqualTargets{.target_ids = c[0], .query_ids = c[1]};
  };
  add("info_nce, equal targets", ids, [=](std::span<const Variable> r, std::span<const Tensor> c) {
    return info_nce(r[0], r[1], {.scale = 2.0, .label_smoothing = 0.1, .hardness = 0.5, .equal_targets = equal_of(c)});
  });
  add("info_nce in tiles, equal targets", ids, [=](std::span<const Variable> r, std::span<const Tensor> c) {
    return info_nce(r[0], r[1], {.scale = 2.0, .equal_targets = equal_of(c), .tiles = {{3, 2}}});
  });
  return all;
}

struct Setup {
  std::vector<Encoder> encoders;
  std::vector<Tensor> inputs;

  Setup(const Case& c, Device device, DType dtype) {
    for (std::uint64_t i = 0; i < 2; ++i) {
      encoders.emplace_back(1 + i, dtype, 0.2, 5, 7, kWidth);
      for (Parameter p : encoders.back().parameters()) p.move_to(device);
      const bool half = c.name.ends_with("hard negatives") && i == 0;
      inputs.push_back(random_values({half ? kSamples / 2 : kSamples, 5}, 7 + i, dtype).to(device));
    }
  }
  std::vector<Tower> towers(std::size_t count) const {
    std::vector<Tower> made;
    for (std::size_t i = 0; i < count; ++i) made.emplace_back(std::string(i == 0 ? "a" : "b"), inputs[i], encoders[i]);
    return made;
  }
  std::vector<Parameter> parameters() const { return joined({encoders[0].parameters(), encoders[1].parameters()}); }
};

std::size_t towers_of(const Case& c) { return c.name.starts_with("sup_con") ? 1 : 2; }

}  // namespace

BOOST_AUTO_TEST_SUITE(cuda)
BOOST_AUTO_TEST_SUITE(losses)

BOOST_AUTO_TEST_CASE(they_give_what_the_cpu_gives_without_a_wait, *on_device) {
  for (const auto& [dtype, tolerance] : {std::pair{DType::kFloat64, 1e-12}, {DType::kFloat32, 1e-5}}) {
    const std::vector<Case> there = cases(kCuda), here = cases(Device::cpu());
    for (std::size_t i = 0; i < there.size(); ++i) {
      BOOST_TEST_CONTEXT(there[i].name << ", " << name(dtype)) {
        const std::int64_t rows = there[i].name.ends_with("hard negatives") ? kSamples / 2 : kSamples;
        const Tensor a = random_values({rows, kWidth}, 3, dtype), b = random_values({kSamples, kWidth}, 4, dtype);
        const auto take = [&](const Case& c, Device device) {
          Tape tape;
          const std::vector<Variable> leaves{tape.leaf(a.to(device)), tape.leaf(b.to(device))};
          const std::uint64_t waits = Device::waits();
          std::vector<Tensor> results;
          {
            const Recording recording(tape);
            const Variable loss = c(leaves);
            results.push_back(loss.value());
            tape.backward(loss);
          }
          BOOST_TEST(Device::waits() == waits);
          for (std::size_t t = 0; t < towers_of(c); ++t) results.push_back(tape.gradient(leaves[t]));
          return results;
        };
        const std::vector<Tensor> found = take(there[i], kCuda), expected = take(here[i], Device::cpu());
        for (std::size_t t = 0; t < expected.size(); ++t)
          BOOST_TEST(max_difference(found[t], expected[t]) <= tolerance);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(labels_and_guides_may_be_on_either_device, *on_device) {
  const Tensor labels = Tensor::from(std::vector<std::int64_t>{4, 1, 4, 9, 1, 4}, {6});
  const Tensor a = device_values({6, 4}, 1), b = device_values({6, 4}, 2), guide_a = device_values({6, 3}, 3),
               guide_b = device_values({6, 3}, 4);
  BOOST_TEST(sup_con(a, labels).value().item() == sup_con(a, labels.to(kCuda)).value().item());
  const Tensor host_a = guide_a.to(Device::cpu()), host_b = guide_b.to(Device::cpu());
  const double by_device = gist_loss(a, b, guide_a, guide_b, {.margin = 0.1}).value().item();
  BOOST_TEST(std::abs(by_device - gist_loss(a, b, host_a, host_b, {.margin = 0.1}).value().item()) <= 1e-12);
  const Tensor mask = Tensor::full({6, 2}, 1, DType::kBool), tokens = device_values({6, 2, 4}, 5);
  BOOST_CHECK_EXCEPTION(ops::maxsim_loss(tokens, mask, tokens, {}, Tensor::full({}, 1, DType::kFloat64, kCuda)),
                        DeviceError, says({"query_mask", "cpu", "cuda:0"}));
}

BOOST_AUTO_TEST_CASE(they_may_be_in_a_deferred_step, *on_device) {
  for (const Case& c : cases(kCuda)) {
    BOOST_TEST_CONTEXT(c.name) {
      const Setup setup(c, kCuda, DType::kFloat32);
      const std::vector<Tower> towers = setup.towers(towers_of(c));
      const auto loss = [&](std::span<const Variable> r) { return c(r); };
      StepOptions options = device_options({3});
      begin_random_step(1, 2);
      const double expected = cached_step(towers, loss, options).loss.item();
      const std::vector<Tensor> gradients = gradients_of(setup.parameters());
      options.deferred = true;
      begin_random_step(1, 2);
      const std::uint64_t waits = Device::waits();
      const StepResult result = cached_step(towers, loss, options);
      BOOST_TEST(Device::waits() == waits);
      BOOST_TEST(result.loss.item() == expected);
      const std::vector<Tensor> found = gradients_of(setup.parameters());
      for (std::size_t i = 0; i < found.size(); ++i) {
        BOOST_REQUIRE(found[i].defined() == gradients[i].defined());
        if (found[i].defined()) BOOST_TEST(same_bits(found[i], gradients[i]));
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(they_may_be_in_a_captured_step, *on_device) {
  for (Case& c : cases(kCuda)) {
    BOOST_TEST_CONTEXT(c.name) {
      const Setup setup(c, kCuda, DType::kFloat32);
      const std::vector<Tower> towers = setup.towers(towers_of(c));
      StepOptions options = device_options({3});
      options.deferred = true;
      StepResult result;
      const auto take = [&] {
        for (Parameter p : setup.parameters()) p.clear_gradient();
        result = cached_step(
            towers, [&](std::span<const Variable> r) { return c(r); }, options);
      };
      CapturedStep captured(kCuda, take, 5);
      std::vector<double> losses;
      for (std::uint32_t t = 0; t < 5; ++t) {
        c.fill(t);
        captured.replay(t);
        const StepResult replayed = result;
        std::vector<Tensor> found, places;
        for (const Parameter& p : setup.parameters()) {
          places.push_back(p.gradient());
          found.push_back(p.gradient().defined() ? p.gradient().clone() : Tensor());
        }
        losses.push_back(result.loss.item());
        begin_random_step(5, t);
        take();
        BOOST_TEST(result.loss.item() == losses.back());
        for (std::size_t i = 0; i < found.size(); ++i) {
          Parameter p = setup.parameters()[i];
          BOOST_REQUIRE(p.gradient().defined() == found[i].defined());
          if (found[i].defined()) BOOST_TEST(same_bits(p.gradient(), found[i]));
          p.mutable_gradient() = places[i];
        }
        result = replayed;
      }
      BOOST_TEST(captured.captured());
      for (std::size_t t = 1; t < losses.size(); ++t) BOOST_TEST(losses[t] != losses[t - 1]);
    }
  }
}

BOOST_AUTO_TEST_CASE(equal_rows_are_found_without_a_wait, *on_device) {
  Tensor host = random_values({kSamples, kWidth}, 5);
  for (const std::int64_t to : {3, 6}) host.slice(to, to + 1).copy_from(host.slice(1, 2));
  const Tensor a = device_values({kSamples, kWidth}, 6), b = host.to(kCuda);
  const Tensor ids = Tensor::from<std::int64_t>({0, 1, 2, 1, 4, 5, 1, 7}, {kSamples}).to(kCuda);
  const std::uint64_t waits = Device::waits();
  const Tensor found = info_nce(a, b, {.scale = 2.0, .equal_targets = {.equal_rows = true}}).value(),
               tiled = info_nce(a, b, {.scale = 2.0, .equal_targets = {.equal_rows = true}, .tiles = {{3, 2}}}).value();
  BOOST_TEST(Device::waits() == waits);
  BOOST_TEST(found.item() == info_nce(a, b, {.scale = 2.0, .equal_targets = {.target_ids = ids}}).value().item());
  BOOST_TEST(tiled.item() ==
             info_nce(a, b, {.scale = 2.0, .equal_targets = {.target_ids = ids}, .tiles = {{3, 2}}}).value().item());
}

BOOST_AUTO_TEST_CASE(labels_without_a_pair_are_named_when_the_device_is_waited_for, *on_device) {
  const Tensor x = device_values({4, 3}, 1), labels = Tensor::from<std::int64_t>({1, 2, 3, 4}, {4});
  const std::string expected = "sup_con: no two of 4 labels are equal, so that nothing is positive";
  const auto fails = [&](const std::function<void()>& f) {
    BOOST_CHECK_EXCEPTION(f(), ValueError, [&](const ValueError& e) { return e.what() == expected; });
  };
  fails([&] { sup_con(x.to(Device::cpu()), labels); });
  fails([&] { sup_con(x, labels); });
  fails([&] { sup_con(x.to(Device::cpu()), labels.to(kCuda)); });
  const Tensor loss = sup_con(x, labels.to(kCuda)).value();
  fails([&] { kCuda.synchronize(); });
  BOOST_TEST(loss.item() == 0);

  Tensor there = Tensor::from<std::int32_t>({1, 1, 3, 4}, {4}).to(kCuda), value;
  CapturedStep step(kCuda, [&] { value = sup_con(x, there).value(); });
  for (std::uint32_t t = 0; t < 4; ++t) {
    there.copy_from((t == 2 ? labels : Tensor::from<std::int64_t>({1, 1, 3, 3}, {4})).to(DType::kInt32).to(kCuda));
    step.replay(t);
    if (t == 2) fails([&] { value.item(); });
    else BOOST_TEST(value.item() == sup_con(x, there).value().item());
  }
}

BOOST_AUTO_TEST_SUITE_END()
BOOST_AUTO_TEST_SUITE_END()
