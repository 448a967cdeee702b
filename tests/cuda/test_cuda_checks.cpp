#include <cmath>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "cuda_device.h"
#include "gradcache_checks.h"
#include "tapecache/core/random.h"
#include "tapecache/core/value_checks.h"
#include "tapecache/losses/losses.h"
#include "tapecache/models/bert.h"
#include "tapecache/models/clip.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/maxsim.h"
#include "tapecache/ops/reduce.h"
#include "tapecache/ops/update.h"
#include "tapecache/train/optimizer.h"

// Checks of values that a CUDA device makes itself, and how often a step waits for it.

using namespace tapecache;
using namespace tapecache::gradcache;
using namespace tapecache::losses;
using namespace tapecache::testing;

namespace {

std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const ValueError& e) {
    return e.what();
  }
  return "nothing was thrown";
}

/// What the next wait for the device throws.
std::string later_error() {
  return error_of([] { kCuda.synchronize(); });
}

struct BadValue {
  std::string name;
  std::function<void(Device)> call;
};

Tensor whole(std::vector<std::int64_t> values, Shape shape, Device device, DType dtype = DType::kInt64) {
  return Tensor::from(values, shape).to(dtype).to(device);
}

Tensor flags(std::vector<double> values, Shape shape, Device device) {
  return vector_of(values).reshape(shape).to(DType::kBool).to(device);
}

models::TextTransformer text_tower(const models::Builder& builder) {
  return {builder,
          {.vocabulary = 10,
           .max_tokens = 4,
           .pooling = models::TextConfig::Pooling::kLastToken,
           .encoder = {.width = 8, .layers = 1, .heads = 2, .mlp_width = 16}}};
}

std::vector<BadValue> bad_values() {
  const auto values = [](Shape shape, Device device) { return random_values(shape, 1).to(device); };
  const auto text = [](const models::TokenBatch& tokens, Device device) {
    const models::Builder builder(1, DType::kFloat32);
    const models::TextTransformer tower = text_tower(builder);
    builder.to(device);
    tower(tokens);
  };
  return {
      {"embedding",
       [=](Device d) {
         ops::embedding(values({5, 2}, d), whole({4, 7, -1}, {3}, d, DType::kInt32));
       }},
      {"gather_rows",
       [=](Device d) {
         ops::gather_rows(values({3, 2}, d), whole({0, -9}, {2}, d));
       }},
      {"select_token",
       [=](Device d) {
         ops::select_token(values({2, 3, 4}, d), whole({2, 3}, {2}, d));
       }},
      {"cross_entropy",
       [=](Device d) {
         ops::cross_entropy(values({4, 5}, d), whole({0, 1, 5, 0}, {4}, d));
       }},
      {"last_token_pool",
       [=](Device d) {
         ops::last_token_pool(values({2, 2, 3}, d), flags({0, 1, 0, 0}, {2, 2}, d));
       }},
      {"cls_pool",
       [=](Device d) {
         ops::cls_pool(values({2, 2, 3}, d), flags({0, 1, 0, 0}, {2, 2}, d));
       }},
      {"end of text",
       [=](Device d) {
         const models::Builder builder(1, DType::kFloat32);
         const models::TextTransformer tower(
             builder,
             {.vocabulary = 10, .max_tokens = 4, .encoder = {.width = 8, .layers = 1, .heads = 2, .mlp_width = 16}});
         builder.to(d);
         tower({whole({1, 9, 3, 4}, {2, 2}, d), {}});
       }},
      {"token type",
       [=](Device d) {
         const models::Builder builder(1, DType::kFloat32);
         const models::Bert bert(
             builder,
             {.vocabulary = 10, .max_tokens = 4, .encoder = {.width = 8, .layers = 1, .heads = 2, .mlp_width = 16}});
         builder.to(d);
         bert({.ids = whole({1, 9, 3, 4}, {2, 2}, d), .types = whole({0, 1, 1, 2}, {2, 2}, d)});
       }},
      {"maxsim_loss",
       [=](Device d) {
         const Tensor x = values({3, 2, 4}, d);
         ops::maxsim_loss(x, {}, x, flags({1, 1, 0, 0, 0, 0}, {3, 2}, d), values({}, d));
       }},
      {"token",
       [=](Device d) {
         text({whole({1, 2, 3, 4, 10, 6}, {2, 3}, d, DType::kInt32), {}}, d);
       }},
      {"valid",
       [=](Device d) {
         text({whole({1, 2, 3, 4}, {2, 2}, d), flags({1, 0, 0, 0}, {2, 2}, d)}, d);
       }},
  };
}

struct TextSetup {
  models::Builder builder{5, DType::kFloat32};
  models::TextTransformer tower = text_tower(builder);
  Encoder other = Encoder(1, DType::kFloat32, 0.2, 5, 7, 8);
  Parameter scale{"scale", Tensor::full({}, 2.0, DType::kFloat32, kCuda)};

  TextSetup() { builder.to(kCuda); }
  std::vector<Parameter> parameters() const { return joined({builder.parameters(), other.parameters(), {scale}}); }
  std::vector<Tower> towers(const Tensor& ids) const {
    return {{"text", models::TokenBatch{ids.to(kCuda), {}}, tower},
            {"other", device_values({ids.size(0), 5}, 6, DType::kFloat32), other}};
  }
  Loss loss() const {
    return [scale = scale](std::span<const Variable> r) {
      return info_nce(r[0], r[1], {.scale = scale, .tiles = ops::TileOptions{}});
    };
  }
};

using Step = std::function<StepResult(const TextSetup&, const Tensor&)>;

const std::vector<std::pair<std::string, Step>> kSteps{
    {"direct", [](const TextSetup& s,
                  const Tensor& ids) { return direct_step(s.towers(ids), s.loss(), device_options().direct()); }},
    {"cached",
     [](const TextSetup& s, const Tensor& ids) { return cached_step(s.towers(ids), s.loss(), device_options({2})); }},
};

const Tensor kGoodIds = Tensor::from(std::vector<std::int64_t>{1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2}, {4, 3});

}  // namespace

BOOST_AUTO_TEST_SUITE(cuda)

BOOST_AUTO_TEST_CASE(a_bad_value_is_named_when_the_device_is_waited_for, *on_device) {
  for (const BadValue& bad : bad_values()) {
    BOOST_TEST_CONTEXT(bad.name) {
      const std::string expected = error_of([&] { bad.call(Device::cpu()); });
      BOOST_TEST(error_of([&] { bad.call(kCuda); }) == "nothing was thrown");
      BOOST_TEST(later_error() == expected);
      BOOST_TEST(later_error() == "nothing was thrown");
      BOOST_TEST(expected != "nothing was thrown");
    }
  }
}

BOOST_AUTO_TEST_CASE(the_first_bad_value_is_named_and_none_is_read, *on_device) {
  const Tensor table = random_values({100, 3}, 1).to(kCuda);
  std::vector<std::int64_t> ids(200'000, 7);
  ids[150'000] = 100;
  ids[199'999] = -1;
  const Tensor taken = ops::embedding(table, whole(ids, {200'000}, kCuda)).value();
  ops::cross_entropy(table, whole(std::vector<std::int64_t>(100, 3), {100}, kCuda));
  // Every call that waits throws it.
  BOOST_TEST(error_of([&] { taken.slice(0, 1).to(Device::cpu()); }) ==
             "embedding: ids[150000] is 100, expected 0 to 99");
  BOOST_TEST(same_bits(taken.slice(150'000, 150'001).reshape({3}), table.slice(0, 1).reshape({3})));
  BOOST_TEST(same_bits(taken.slice(149'999, 150'000).reshape({3}), table.slice(7, 8).reshape({3})));
  ops::cross_entropy(table, whole(std::vector<std::int64_t>(100, 4), {100}, kCuda));
  BOOST_TEST(error_of([&] { taken.slice(0, 1).reshape({3}).slice(0, 1).item(); }) ==
             "cross_entropy: targets[0] is 4, expected 0 to 2");
  ops::embedding(table, whole({-5}, {1}, kCuda));
  BOOST_TEST(error_of([&] { first_non_finite(table); }) == "embedding: ids[0] is -5, expected 0 to 99");
  BOOST_TEST(error_of([&] {
               ops::embedding(Tensor::zeros({0, 2}).to(kCuda), whole({0}, {1}, kCuda));
             }) == error_of([&] {
               ops::embedding(Tensor::zeros({0, 2}), whole({0}, {1}, Device::cpu()));
             }));
}

BOOST_AUTO_TEST_CASE(a_bad_value_leaves_no_half_step_behind, *on_device) {
  Tensor bad = kGoodIds.clone();
  bad.mutable_data<std::int64_t>()[10] = 77;
  for (const auto& [name, step] : kSteps) {
    BOOST_TEST_CONTEXT(name) {
      const TextSetup setup;
      std::vector<Tensor> before;
      for (Parameter p : setup.parameters()) {
        before.push_back(random_values(p.value().shape(), 3, DType::kFloat32));
        p.mutable_gradient() = before.back().to(kCuda);
      }
      begin_random_step(3, 4);
      const RandomState random = random_state();
      const std::string place = name == "direct" ? "token 1 of sample 3" : "token 1 of sample 1";  // of the chunk
      BOOST_TEST(error_of([&, &step = step] { step(setup, bad); }) ==
                 "text transformer: " + place + " is 77, expected an id from 0 to 9");
      BOOST_TEST((random_state() == random));
      for (std::size_t i = 0; i < before.size(); ++i)
        BOOST_TEST(same_bits(setup.parameters()[i].gradient(), before[i]));
      BOOST_TEST((step(setup, kGoodIds).status == StepStatus::kDone));
    }
  }
}

BOOST_AUTO_TEST_CASE(an_optimizer_changes_nothing_after_a_bad_value, *on_device) {
  const Parameter p("p", random_values({40, 30}, 1).to(kCuda));
  const Tensor before = p.value().clone();
  train::AdamW adamw({p});
  train::Sgd sgd({p});
  Parameter(p).mutable_gradient() = random_values({40, 30}, 2).to(kCuda);
  ops::embedding(p, whole({40}, {1}, kCuda));
  adamw.step(0.1);
  sgd.step(0.1);
  BOOST_TEST(later_error() == "embedding: ids[0] is 40, expected 0 to 39");
  BOOST_TEST(same_bits(p.value(), before));
  sgd.step(0.1);
  BOOST_TEST(!same_bits(p.value(), before));
}

BOOST_AUTO_TEST_CASE(a_step_waits_for_its_device_once, *on_device) {
  const TextSetup setup;
  const std::vector<Parameter> parameters = setup.parameters();
  train::AdamW optimizer(parameters);
  for (const auto& [name, step] : kSteps) {
    BOOST_TEST_CONTEXT(name) {
      const std::uint64_t before = Device::waits();
      step(setup, kGoodIds);
      BOOST_TEST(Device::waits() - before == 1u);
      train::clip_gradient_norm(parameters, 1);
      optimizer.step(0.1);
      optimizer.clear_gradients();
      Parameter scale = setup.scale;
      clamp_log_scale(scale);
      BOOST_TEST(Device::waits() - before == 1u);
    }
  }
}

BOOST_AUTO_TEST_CASE(clipping_on_a_device_is_that_of_the_host_without_a_wait, *on_device) {
  for (const double max_norm : {0.5, 1e6}) {
    const std::vector<Parameter> a{{"a", Tensor::zeros({30, 40})}, {"b", Tensor::zeros({7}, DType::kFloat64)}};
    const std::vector<Parameter> b{{"a", Tensor::zeros({30, 40}).to(kCuda)},
                                   {"b", Tensor::zeros({7}, DType::kFloat64, kCuda)}};
    for (std::size_t i = 0; i < a.size(); ++i) {
      const Tensor gradient = random_values(a[i].value().shape(), i, a[i].value().dtype());
      Parameter(a[i]).mutable_gradient() = gradient;
      Parameter(b[i]).mutable_gradient() = gradient.to(kCuda);
    }
    const double norm = train::clip_gradient_norm(a, max_norm).item();
    const std::uint64_t waits = Device::waits();
    const Number found_there = train::clip_gradient_norm(b, max_norm);
    BOOST_TEST(Device::waits() == waits);
    const double found = found_there.item();
    BOOST_TEST(std::abs(found - norm) <= 1e-13 * norm);
    for (std::size_t i = 0; i < a.size(); ++i) BOOST_TEST(max_difference(b[i].gradient(), a[i].gradient()) <= 1e-7);
  }
}

BOOST_AUTO_TEST_SUITE_END()
