#include <limits>
#include <optional>
#include <stdexcept>
#include <vector>

#include "gradcache_checks.h"
#include "odd_context.h"
#include "tapecache/autograd/variable.h"
#include "tapecache/gradcache/cached.h"
#include "tapecache/ops/reduce.h"

using namespace tapecache;
using namespace tapecache::gradcache;
using namespace tapecache::losses;
using namespace tapecache::testing;

BOOST_AUTO_TEST_SUITE(gradcache_functional)

BOOST_AUTO_TEST_CASE(a_backward_by_hand) {
  const Encoder encoder(1, DType::kFloat64, 0.4);
  const Tensor x = random_values({6, 5}, 2), c = random_values({6, 4}, 3);
  const std::vector<Tower> towers{{"x", x, encoder}};
  const Loss projection = [&](std::span<const Variable> r) { return ops::sum(ops::multiply(r[0], c)); };
  const auto by_hand = [&] {
    const CachedForward forward = cached(encoder, x);
    const RandomState after = random_state();
    StepResult result;
    double loss = 0;
    for (std::size_t i = 0; i < 24; ++i) loss += doubles(forward.representations()[0])[i] * doubles(c)[i];
    result.loss = loss;
    forward.backward(std::span(&c, 1));
    BOOST_TEST((random_state() == after));
    return result;
  };
  check_equal(compare_steps([&] { return direct_step(towers, projection); }, by_hand, encoder.parameters()), 1e-12);
}

BOOST_AUTO_TEST_CASE(second_forwards_have_the_whole_context_of_the_first) {
  const Encoder encoder(1, DType::kFloat64, 0.4);
  std::vector<ForwardContext> seen;
  const auto encode = [&](const Tensor& x) {
    seen.push_back(forward_context());
    return encoder(x);
  };
  const Tensor x = random_values({6, 5}, 2), c = random_values({6, 4}, 3);
  const ForwardContext outside = forward_context();
  std::optional<CachedForward> forward;
  {
    const ScopedValue first(forward_context(), odd_context());
    forward.emplace(cached(encode, x));
    ForwardContext expected = odd_context();
    expected.random.key.call += 2;
    BOOST_CHECK(forward_context() == expected);
  }
  forward->backward(std::span(&c, 1));
  BOOST_CHECK(forward_context() == outside);
  ForwardContext expected = odd_context();
  expected.random.samples = 6;  // what the tower shows
  expected.random.sample_ids = {};
  BOOST_REQUIRE_EQUAL(seen.size(), 2u);
  BOOST_CHECK(seen[0] == expected);
  BOOST_CHECK(seen[1] == expected.repeated());
}

BOOST_AUTO_TEST_CASE(both_forwards_of_a_chunk_have_one_context) {
  const Encoder encoder(1, DType::kFloat64, 0.4);
  std::vector<ForwardContext> seen;
  const auto encode = [&](const Tensor& x) {
    seen.push_back(forward_context());
    return encoder(x);
  };
  const std::vector<Tower> towers{{"x", random_values({6, 5}, 2), encode}};
  const Loss loss = [](std::span<const Variable> r) { return ops::sum(ops::multiply(r[0], r[0])); };
  const ScopedValue odd(forward_context(), odd_context());
  cached_step(towers, loss, {.cut = {2}});
  ForwardContext after = odd_context();
  after.random.key.call += 2;
  BOOST_CHECK(forward_context() == after);
  BOOST_REQUIRE_EQUAL(seen.size(), 6u);
  for (std::size_t i = 0; i < 3; ++i) {
    ForwardContext expected = odd_context();
    expected.random.first_sample += 2 * static_cast<std::int64_t>(i);
    expected.random.samples = 2;
    expected.random.sample_ids = {};
    BOOST_CHECK(seen[i] == expected);
    BOOST_CHECK(seen[5 - i] == expected.repeated());
  }
}

BOOST_AUTO_TEST_CASE(two_pending_forwards_share_nothing) {
  const Encoder encoder(1, DType::kFloat64, 0.4);
  const Tensor x = random_values({6, 5}, 2), c = random_values({6, 4}, 3), d = random_values({6, 4}, 4);
  const auto gradient_of = [&](auto&& run) {
    for (Parameter p : encoder.parameters()) p.clear_gradient();
    run();
    std::vector<double> all;
    for (const Parameter& p : encoder.parameters()) {
      for (const double v : doubles(p.gradient())) all.push_back(v);
    }
    return all;
  };
  begin_random_step(1, 1);
  const auto first = gradient_of([&] { cached(encoder, x).backward(std::span(&c, 1)); });
  begin_random_step(2, 9);
  const auto second = gradient_of([&] { cached(encoder, x).backward(std::span(&d, 1)); });
  const auto both = gradient_of([&] {
    begin_random_step(1, 1);
    const CachedForward a = cached(encoder, x);
    begin_random_step(2, 9);
    const CachedForward b = cached(encoder, x);
    a.backward(std::span(&c, 1));
    b.backward(std::span(&d, 1));
  });
  std::vector<double> sum(first.size());
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] = first[i] + second[i];
  BOOST_TEST(max_difference(both, sum) <= 1e-13);
}

BOOST_AUTO_TEST_CASE(auxiliary_losses_over_sub_batches) {
  const Encoder encoder(1, DType::kFloat64, 0.2);
  const auto encode = [&](const Tensor& x) {
    const Variable y = encoder(x);
    return Encoded{{{"pooled", y}}, {{"size", ops::mean(ops::exp(y), 1), 0.7}}};
  };
  const Tensor x = random_values({7, 5}, 2);
  const std::vector<Tower> towers{{"x", x, encode}};
  const Loss loss = [](const Representations& r) { return info_nce(r.at("x.pooled"), ops::tanh(r[0])); };
  DirectOptions scaled, by_device;
  scaled.scale = 0.25;
  by_device.scale = Tensor::full({}, 3.0, DType::kFloat64);
  for (const DirectOptions& options : {DirectOptions(), scaled, by_device}) {
    const auto by_parts = [&] {
      CachedBatch batch{"x", {cached(encode, x.slice(0, 2))}};
      batch.chunks.push_back(cached(encode, x.slice(2, 7), {.after = &batch.chunks.back()}));
      return cached_backward(std::span(&batch, 1), loss, {.scale = options.scale});
    };
    check_equal(compare_steps([&] { return direct_step(towers, loss, options); }, by_parts, encoder.parameters()),
                1e-12);
  }
}

BOOST_AUTO_TEST_CASE(a_sub_batch_that_fails_gives_buffers_back) {
  const Encoder encoder(1, DType::kFloat64, 0);
  const Tensor x = random_values({6, 5}, 2);
  Tensor calls = Tensor::zeros({}, DType::kFloat64);
  bool fails = true;
  const auto encode = [&](const Tensor& chunk) {
    before_change(calls);
    calls.fill(calls.item() + 1);
    if (fails && calls.item() == 2) throw std::runtime_error("enough");
    return encoder(chunk);
  };
  const Tower tower = Tower::from_chunks("x", std::vector{x.slice(0, 3), x.slice(3, 6)}, encode);
  BOOST_CHECK_THROW(cached(tower), std::runtime_error);
  BOOST_TEST(calls.item() == 0);
  fails = false;
  cached(tower);
  BOOST_TEST(calls.item() == 2);
}

BOOST_AUTO_TEST_CASE(misuse) {
  const Encoder encoder(1, DType::kFloat64, 0.2), wider(1, DType::kFloat64, 0.0, 5, 7, 6);
  const Tensor x = random_values({6, 5}, 2);
  const CachedForward forward = cached(encoder, x);
  CachedForward moved = forward;
  const CachedForward taken = std::move(moved);
  BOOST_CHECK_EXCEPTION(moved.representations(), Error, says({"moved from"}));
  BOOST_CHECK_EXCEPTION(moved.backward({}), Error, says({"moved from"}));
  BOOST_TEST(taken.size() == 6);
  const Tensor wrong = random_values({6, 3}, 1);
  BOOST_CHECK_EXCEPTION(forward.backward(std::span(&wrong, 1)), ShapeError, says({"[6, 3]", "[6, 4]"}));
  BOOST_CHECK_EXCEPTION(forward.backward({}), ValueError, says({"0 gradients for 1 outputs"}));
  BOOST_CHECK_EXCEPTION(cached(encoder, x.slice(0, 0)), ValueError, says({"no samples"}));
  const Loss loss = [](std::span<const Variable> r) { return ops::sum(r[0]); };
  BOOST_CHECK_THROW(cached_backward({}, loss), ValueError);
  const CachedBatch none{"none", {}}, mixed{"mixed", {forward, cached(wider, x)}};
  BOOST_CHECK_EXCEPTION(cached_backward(std::span(&none, 1), loss), ValueError, says({"'none'"}));
  BOOST_CHECK_EXCEPTION(cached_backward(std::span(&mixed, 1), loss), ShapeError, says({"'mixed'", "[6, 6]", "[6, 4]"}));
  const std::vector<CachedBatch> namesakes{{"x", {forward}}, {"x", {forward}}};
  BOOST_CHECK_EXCEPTION(cached_backward(namesakes, loss), ValueError, says({"two towers", "'x'"}));
  const CachedBatch batch{"x", {forward}};
  CachedBackwardOptions unbounded;
  unbounded.scale = std::numeric_limits<double>::infinity();
  BOOST_CHECK_EXCEPTION(cached_backward(std::span(&batch, 1), loss, unbounded), ValueError, says({"scale is inf"}));
  Parameter w = encoder.w1;
  w.mutable_value().fill(1);
  const Tensor c = random_values({6, 4}, 3);
  BOOST_CHECK_EXCEPTION(forward.backward(std::span(&c, 1)), ValueError, says({"'w1'", "changed"}));
}

BOOST_AUTO_TEST_CASE(one_sub_batch_in_two_batches) {
  const Encoder encoder(1, DType::kFloat64, 0);
  const Tensor x = random_values({8, 5}, 2);
  const auto encode = with_size(encoder, "size", 1);
  const std::vector<Tower> towers{{"p", x, encode}, {"q", x.slice(0, 4), encode}};
  const Loss loss = nothing();
  const auto shared = [&] {
    const CachedForward first = cached(encode, x.slice(0, 4)), second = cached(encode, x.slice(4, 8));
    const std::vector<CachedBatch> batches{{"p", {first, second}}, {"q", {first}}};
    return cached_backward(batches, loss, {.allow_unused = true});
  };
  check_equal(compare_steps([&] { return direct_step(towers, loss); }, shared, encoder.parameters()), 1e-12);
}

BOOST_AUTO_TEST_CASE(an_off_loaded_sub_batch_of_chunks_in_two_batches) {
  const Encoder encoder(1, DType::kFloat64, 0);
  const Tensor x = random_values({8, 5}, 2);
  const std::vector<Tower> towers{{"p", x, encoder}, {"q", x, encoder}};
  const Loss loss = [](const Representations& r) {
    return ops::mean(ops::mean(ops::multiply(r[0], ops::exp(r[1])), 1), 0);
  };
  const auto shared = [&] {
    const CachedForward both =
        cached(Tower::from_chunks("x", std::vector{x.slice(0, 3), x.slice(3, 8)}, encoder), {.offload = true});
    const std::vector<CachedBatch> batches{{"p", {both}}, {"q", {both}}};
    return cached_backward(batches, loss, {.offload = true});
  };
  check_equal(compare_steps([&] { return direct_step(towers, loss); }, shared, encoder.parameters()), 1e-12);
}

BOOST_AUTO_TEST_CASE(a_tower_with_a_dot_in_its_name_as_a_sub_batch) {
  const Encoder a(1, DType::kFloat64, 0), b(2, DType::kFloat64, 0);
  const Tensor x = random_values({6, 5}, 3);
  const std::vector<CachedBatch> batches{{"image", {cached(Tower("clip.image", x, a))}}, {"text", {cached(b, x)}}};
  const Loss loss = [](const Representations& r) { return info_nce(r.at("image"), r.at("text"), {.scale = 3.0}); };
  BOOST_TEST((cached_backward(batches, loss).status == StepStatus::kDone));
}

BOOST_AUTO_TEST_CASE(sub_batches_with_other_numbers_of_random_draws_are_refused) {
  const Encoder encoder(1, DType::kFloat64, 0.3);
  const Tensor x = random_values({6, 5}, 2);
  int calls = 0;
  Tensor seen = Tensor::zeros({}, DType::kFloat64);
  const auto encode = [&](const Tensor& chunk) {
    before_change(seen);
    seen.fill(++calls);
    return calls == 1 ? encoder(chunk) : ops::dropout(encoder(chunk), 0.5);
  };
  const CachedForward first = cached(encode, x.slice(0, 3));
  const RandomState before = random_state();
  BOOST_CHECK_EXCEPTION(cached(encode, x.slice(3, 6), {.after = &first}), ValueError, says({"3 random draws", "2"}));
  BOOST_TEST((random_state() == before));
  BOOST_TEST(seen.item() == 1);
}

BOOST_AUTO_TEST_SUITE_END()
