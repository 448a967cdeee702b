#include <functional>
#include <limits>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "gradcache_checks.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/reduce.h"

using namespace tapecache;
using namespace tapecache::gradcache;
using namespace tapecache::losses;
using namespace tapecache::testing;

namespace {

using Span = std::span<const Variable>;

}  // namespace

BOOST_AUTO_TEST_SUITE(gradcache_edges)

BOOST_AUTO_TEST_CASE(several_outputs) {
  const Encoder pooled(1, DType::kFloat64, 0.2), tokens(2, DType::kFloat64, 0.2);
  const Tensor x = random_values({7, 5}, 3);
  const auto check = [&](const Tower& tower, const Loss& loss) {
    const std::vector<Tower> towers{tower};
    for (const std::int64_t chunk : {1, 3, 7, 9}) check_equal(compare(towers, loss, {{chunk}}), 1e-12);
  };
  check({"both", x, [&](const Tensor& s) { return std::vector<Variable>{pooled(s), tokens(s)}; }}, pairwise);
  check({"both", x, [&](const Tensor& s) { return std::pair(pooled(s), tokens(s)); }}, pairwise);
  check({"both", x, [&](const Tensor& s) { return std::tuple(pooled(s), tokens(s), pooled(s)); }},
        [](Span r) { return ops::add(info_nce(r[0], r[1]), info_nce(r[1], r[2])); });
  check({"both", x,
         [&](const Tensor& s) {
           return Encoded{{{"pooled", pooled(s)}, {"tokens", tokens(s)}}};
         }},
        [](const Representations& r) { return info_nce(r.at("both.pooled"), r.at("both.tokens")); });
}

BOOST_AUTO_TEST_CASE(outputs_that_are_unused_or_not_differentiable) {
  const Encoder used(1, DType::kFloat64, 0.1), unused(2, DType::kFloat64, 0.1);
  const auto encode = [&](const Tensor& s) {
    const Tensor ids = Tensor::full({s.size(0)}, 3, DType::kInt64);
    return Encoded{{{"used", used(s)}, {"unused", unused(s)}, {"constant", detach(used(s))}, {"ids", ids}}};
  };
  const std::vector<Tower> towers{{"x", random_values({6, 5}, 3), encode}, {"y", random_values({6, 5}, 4), used}};
  const Loss loss = [](const Representations& r) {
    BOOST_TEST(r.at("x.ids").value().to_vector<std::int64_t>()[5] == 3);
    return ops::add(info_nce(r.at("x.used"), r.at("y")), info_nce(r.at("x.constant"), r.at("y")));
  };
  check_equal(compare(towers, loss, {{4}}, used.parameters()), 1e-12);
  cached_step(towers, loss, {{4}});
  for (const Parameter& p : unused.parameters()) BOOST_TEST(!p.gradient().defined());
  const Loss misnamed = [](const Representations& r) { return ops::sum(r.at("x.pooled")); };
  BOOST_CHECK_EXCEPTION(cached_step(towers, misnamed, {{4}}), ValueError, says({"'x.pooled'", "'x.used', 'x.unused'"}));
  const Loss beyond = [](const Representations& r) { return ops::sum(r[1000]); };
  BOOST_CHECK_EXCEPTION(cached_step(towers, beyond, {{4}}), ValueError,
                        says({"number 1000", "there are 5", "'x.used', 'x.unused'"}));
}

BOOST_AUTO_TEST_CASE(several_inputs) {
  const Encoder encoder(1, DType::kFloat64, 0.1);
  const Tensor a = random_values({6, 5}, 3), b = random_values({6, 5}, 4);
  const auto encode = [&](const Tensor& left, const Tensor& right) { return ops::add(encoder(left), encoder(right)); };
  const std::vector<Tower> towers{{"pair", std::tuple(a, b), encode}, {"single", random_values({6, 5}, 5), encoder}};
  for (const std::int64_t chunk : {1, 4, 6}) check_equal(compare(towers, pairwise, {{chunk}}), 1e-12);
  BOOST_CHECK_EXCEPTION(Tower("pair", std::tuple(a, a.slice(0, 5)), encode), ShapeError,
                        says({"input 0 has 6", "input 1 has 5"}));
}

BOOST_AUTO_TEST_CASE(chunks_of_the_callers_own) {
  const Encoder encoder(1, DType::kFloat64, 0.3);
  const Tensor x = random_values({9, 5}, 3), y = random_values({9, 5}, 4);
  const std::vector<Tensor> cut{x.slice(0, 1), x.slice(1, 6), x.slice(6, 9)};
  std::vector<std::int64_t> seen;
  const auto counting = [&](const Tensor& s) {
    seen.push_back(s.size(0));
    return encoder(s);
  };
  const std::vector<Tower> own{Tower::from_chunks("x", cut, counting), {"y", y, encoder}};
  const std::vector<Tower> plain{{"x", x, encoder}, {"y", y, encoder}};
  check_equal(compare_steps([&] { return direct_step(plain, pairwise); },
                            [&] { return cached_step(own, pairwise, {{2}}); }, encoder.parameters()),
              1e-12);
  BOOST_TEST((seen == std::vector<std::int64_t>{1, 5, 3, 3, 5, 1}));
  check_equal(compare(own, pairwise, {{2}}), 1e-12);
  BOOST_CHECK_THROW(Tower::from_chunks("x", std::vector<Tensor>{}, encoder), ValueError);
  BOOST_CHECK_EXCEPTION(Tower::from_chunks("x", std::vector<Tensor>{x, x.slice(0, 0)}, encoder), ValueError,
                        says({"'x'", "chunk 1"}));
}

BOOST_AUTO_TEST_CASE(sample_counts_that_contradict_the_loss) {
  const Encoder encoder(1, DType::kFloat64, 0.1);
  const std::vector<Tower> towers{{"a", random_values({6, 5}, 1), encoder}, {"b", random_values({5, 5}, 2), encoder}};
  const ClipSetup setup(4);
  BOOST_CHECK_EXCEPTION(cached_step(towers, setup.loss(), {{4}}), ShapeError, says({"6 images and 5 texts"}));
  for (const Parameter& p : encoder.parameters()) BOOST_TEST(!p.gradient().defined());
}

BOOST_AUTO_TEST_CASE(unused_towers) {
  const Encoder a(1, DType::kFloat64, 0.1), b(2, DType::kFloat64, 0.1);
  const std::vector<Tower> towers{{"a", random_values({6, 5}, 1), a}, {"b", random_values({6, 5}, 2), b}};
  const Loss loss = [](Span r) { return ops::sum(ops::multiply(r[0], r[0])); };
  BOOST_CHECK_EXCEPTION(cached_step(towers, loss, {{4}}), ValueError, says({"does not use", "'b'"}));
  for (const Parameter& p : joined({a.parameters(), b.parameters()})) BOOST_TEST(!p.gradient().defined());
  StepOptions options{{4}};
  options.allow_unused = true;
  check_equal(compare(towers, loss, options, a.parameters()), 1e-12);
  cached_step(towers, loss, options);
  for (const Parameter& p : b.parameters()) BOOST_TEST(!p.gradient().defined());
}

BOOST_AUTO_TEST_CASE(labels_weights_and_a_query_of_the_losss_own) {
  const Encoder encoder(1, DType::kFloat64, 0.1), query(2, DType::kFloat64, 0.1);
  const Tensor labels = Tensor::from<std::int64_t>({3, 1, 2, 0, 4}, {5});
  const Tensor weights = random_values({5, 1}, 8), question = random_values({5, 5}, 9);
  const std::vector<Tower> towers{{"passages", random_values({5, 5}, 1), encoder}};
  const Loss loss = [&](Span r) {
    const Variable asked = ops::multiply(query(question), weights);
    return info_nce(asked, ops::gather_rows(r[0], labels));
  };
  for (const std::int64_t chunk : {1, 2, 5}) {
    const Comparison c = compare(towers, loss, {{chunk}});
    BOOST_TEST(c.parameters.size() == 6u);
    check_equal(c, 1e-12);
  }
}

BOOST_AUTO_TEST_CASE(a_scale_reaches_every_gradient) {
  const ClipSetup setup(8, DType::kFloat64, 0.2);
  const auto gradients = [&](const std::function<StepResult()>& step) {
    for (Parameter p : setup.parameters()) p.clear_gradient();
    begin_random_step(1, 1);
    const double loss = step().loss.item();
    std::vector<std::vector<double>> all{{loss}};
    for (const Parameter& p : setup.parameters()) all.push_back(doubles(p.gradient()));
    return all;
  };
  const auto plain = gradients([&] { return direct_step(setup.towers(), setup.loss()); });
  StepOptions options{{3}};
  options.scale = -1024;
  for (const bool cached : {false, true}) {
    const auto scaled = gradients([&] {
      return cached ? cached_step(setup.towers(), setup.loss(), options)
                    : direct_step(setup.towers(), setup.loss(), options.direct());
    });
    BOOST_TEST(std::abs(scaled[0][0] - plain[0][0]) <= 1e-14);
    for (std::size_t p = 1; p < plain.size(); ++p) {
      for (std::size_t i = 0; i < plain[p].size(); ++i) {
        BOOST_TEST(std::abs(scaled[p][i] / -1024 - plain[p][i]) <= 1e-12 * std::max(1.0, std::abs(plain[p][i])));
      }
    }
  }
  // So does one that a device holds, and a deferred step gives the same.
  options.scale = Tensor::full({}, -1024, DType::kFloat64);
  options.deferred = true;
  for (const bool cached : {false, true}) {
    StepResult result;
    const auto scaled = gradients([&] {
      return result = cached ? cached_step(setup.towers(), setup.loss(), options)
                             : direct_step(setup.towers(), setup.loss(), options.direct());
    });
    BOOST_TEST((result.status == StepStatus::kDeferred));
    BOOST_TEST(std::abs(result.loss.item() - plain[0][0]) <= 1e-14);
    BOOST_TEST(result.non_finite.item() == 0);
    for (std::size_t p = 1; p < plain.size(); ++p) {
      for (std::size_t i = 0; i < plain[p].size(); ++i) {
        BOOST_TEST(std::abs(scaled[p][i] / -1024 - plain[p][i]) <= 1e-12 * std::max(1.0, std::abs(plain[p][i])));
      }
    }
  }
  options.deferred = false;
  options.scale = std::numeric_limits<double>::infinity();
  BOOST_CHECK_EXCEPTION(cached_step(setup.towers(), setup.loss(), options), ValueError, says({"scale", "inf"}));
}

BOOST_AUTO_TEST_CASE(a_scale_has_the_same_bits_wherever_it_is_held) {
  const Encoder encoder(1, DType::kFloat32, 0.2);
  const auto encode = [&](const Tensor& x) {
    const Variable y = encoder(x);
    return Encoded{{{"pooled", y}}, {{"size", ops::mean(ops::exp(y), 1), 0.7}}};
  };
  const std::vector<Tower> towers{{"x", random_values({7, 5}, 2, DType::kFloat32), encode}};
  const Loss loss = [](const Representations& r) { return info_nce(r[0], ops::tanh(r[0])); };
  const double scale = 1000.0 / 3;  // no power of two, so that the order of roundings shows
  const auto gradients = [&](const Number& number, bool cached) {
    for (Parameter p : encoder.parameters()) p.clear_gradient();
    begin_random_step(1, 1);
    const StepOptions options{.cut = {3}, .scale = number};
    cached ? cached_step(towers, loss, options) : direct_step(towers, loss, options.direct());
    std::vector<Tensor> all;
    for (const Parameter& p : encoder.parameters()) all.push_back(p.gradient().clone());
    return all;
  };
  for (const bool cached : {false, true}) {
    const auto by_host = gradients(scale, cached),
               by_device = gradients(Tensor::full({}, scale, DType::kFloat64), cached);
    for (std::size_t i = 0; i < by_host.size(); ++i) BOOST_TEST(same_bits(by_device[i], by_host[i]));
  }
}

BOOST_AUTO_TEST_CASE(steps_accumulate_to_their_mean) {
  // OpenCLIP's chunked recomputation makes the temperature's gradient as many times too large as there are chunks.
  const ClipSetup first(6), second(6);
  const ClipSetup& model = first;
  const std::vector<Tower> a = first.towers();
  const std::vector<Tower> b{{"image", random_values({6, 5}, 77), model.image},
                             {"text", random_values({6, 5}, 78), model.text}};
  StepOptions half{{2}};
  half.scale = 0.5;
  const auto twice = [&](const std::function<StepResult(std::span<const Tower>)>& step) {
    return [&a, &b, step] {
      step(a);
      return step(b);
    };
  };
  check_equal(
      compare_steps(twice([&](std::span<const Tower> t) { return direct_step(t, model.loss(), half.direct()); }),
                    twice([&](std::span<const Tower> t) { return cached_step(t, model.loss(), half); }),
                    model.parameters()),
      1e-12);
}

BOOST_AUTO_TEST_CASE(auxiliary_losses_do_not_depend_on_the_cut) {
  const Encoder encoder(1, DType::kFloat64, 0.2), head(2, DType::kFloat64, 0.1);
  const auto encode = [&](const Tensor& x) {
    const Variable own = ops::mean(ops::multiply(head(x), head(x)), 1);
    return Encoded{{{"", encoder(x)}}, {{"own", own, 0.3}, {"second", ops::exp(own), -2.0}}};
  };
  const std::vector<Tower> towers{{"a", random_values({7, 5}, 1), encode}, {"b", random_values({7, 5}, 2), encode}};
  for (const std::int64_t chunk : {1, 2, 3, 7, 20}) {
    check_equal(compare(towers, pairwise, {{chunk}}), 1e-12);
    begin_random_step(1, 1);
    const StepResult cached = cached_step(towers, pairwise, {{chunk}});
    begin_random_step(1, 1);
    const StepResult direct = direct_step(towers, pairwise);
    BOOST_REQUIRE(cached.auxiliary.size() == 4u);
    for (std::size_t i = 0; i < 4; ++i) {
      BOOST_TEST(cached.auxiliary[i].name == direct.auxiliary[i].name);
      BOOST_TEST(std::abs(cached.auxiliary[i].mean - direct.auxiliary[i].mean) <= 1e-13);
    }
    BOOST_TEST(std::abs(cached.loss.item() - direct.loss.item()) <= 1e-12);
    StepOptions deferred{{chunk}};
    deferred.deferred = true;
    begin_random_step(1, 1);
    BOOST_TEST(std::abs(cached_step(towers, pairwise, deferred).loss.item() - direct.loss.item()) <= 1e-12);
  }
  const auto wrong = [&](const Tensor& x) { return Encoded{{{"", encoder(x)}}, {{"own", ops::sum(encoder(x)), 1.0}}}; };
  const std::vector<Tower> bad{{"a", random_values({7, 5}, 1), wrong}, {"b", random_values({7, 5}, 2), wrong}};
  BOOST_CHECK_EXCEPTION(cached_step(bad, pairwise, {{3}}), ShapeError, says({"'a'", "'own'", "each of 3"}));
}

BOOST_AUTO_TEST_CASE(hooks_run_once_when_all_is_there) {
  const ClipSetup setup(8);
  Parameter w = setup.image.w1;
  std::vector<std::vector<double>> seen;
  w.add_hook([&](Parameter& p) { seen.push_back(doubles(p.gradient())); });
  cached_step(setup.towers(), setup.loss(), {{3}});
  BOOST_REQUIRE(seen.size() == 1u);
  BOOST_TEST((seen[0] == doubles(w.gradient())));
  cached_step(setup.towers(), setup.loss(), {{3}});
  BOOST_TEST((seen.back() == doubles(w.gradient())));
  w.clear_hooks();
}

BOOST_AUTO_TEST_CASE(the_result_tells_of_the_step) {
  const ClipSetup setup(8);
  std::vector<std::string> seen;
  StepOptions options{{3}};
  options.observer = [&](const Progress& p) {
    seen.push_back(std::string(p.phase == Progress::Phase::kForward ? "f"
                               : p.phase == Progress::Phase::kLoss  ? "l"
                                                                    : "b") +
                   p.tower + std::to_string(p.chunk) + "/" + std::to_string(p.chunks));
    BOOST_TEST(p.bytes > 0u);
    BOOST_TEST(p.seconds >= 0);
  };
  const StepResult result = cached_step(setup.towers(), setup.loss(), options);
  BOOST_TEST((seen == std::vector<std::string>{"fimage0/3", "fimage1/3", "fimage2/3", "ftext0/3", "ftext1/3",
                                               "ftext2/3", "l0/1", "btext0/3", "btext1/3", "btext2/3", "bimage0/3",
                                               "bimage1/3", "bimage2/3"}));
  BOOST_TEST((result.status == StepStatus::kDone));
  BOOST_TEST(result.message.empty());
  BOOST_TEST(result.chunks == 6);
  BOOST_TEST(result.kept_chunks == 0);
  BOOST_TEST(result.retries == 0);
  BOOST_TEST(result.peak_bytes > 0u);
  for (const double norm : result.representation_norms) BOOST_TEST(std::abs(norm - 1) <= 1e-12);
  BOOST_TEST(result.parameters.size() == 7u);
  BOOST_TEST((result.seconds.forward > 0 && result.seconds.loss > 0 && result.seconds.backward > 0));
}

BOOST_AUTO_TEST_SUITE_END()
