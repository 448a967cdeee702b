#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "gradcache_checks.h"
#include "tapecache/autograd/gradcheck.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/core/allocator.h"
#include "tapecache/core/memory_scopes.h"
#include "tapecache/core/parallel_for.h"
#include "tapecache/gradcache/tiled_losses.h"

using namespace tapecache;
using namespace tapecache::gradcache;
using namespace tapecache::testing;

namespace {

using Span = std::span<const Variable>;
using LossFunction = std::function<Variable(Span)>;

/// A plain loss, the same in tiles, and what they are given.
struct Pair {
  std::string name;
  LossFunction plain;
  std::function<Variable(Span, const TileOptions&)> tiled;
  std::vector<Tensor> inputs;

  LossFunction with(const TileOptions& tile) const {
    return [tiled = tiled, tile](Span x) { return tiled(x, tile); };
  }
};

std::vector<Pair> pairs(std::int64_t rows, std::int64_t width, DType dtype) {
  // Of length about one, as representations are: the logits are of the size of the scale.
  const auto matrix = [&](std::int64_t count, std::uint64_t seed) {
    std::vector<double> values = doubles(random_values({count, width}, seed));
    for (double& v : values) v *= std::sqrt(3.0 / static_cast<double>(width));
    return Tensor::from(values, {count, width}).to(dtype);
  };
  const Tensor scale = Tensor::full({}, 1.7, dtype), log_scale = Tensor::full({}, 1.1, dtype),
               bias = Tensor::full({}, -2.5, dtype), beyond = Tensor::full({}, 9.0, dtype);
  const auto clip = [](Span x) { return clip_loss(x[0], x[1], x[2]); };
  const auto tiled_clip = [](Span x, const TileOptions& t) { return tiled_clip_loss(x[0], x[1], x[2], t); };
  const auto info = [](Span x) { return info_nce(x[0], x[1], x[2]); };
  const auto tiled_info = [](Span x, const TileOptions& t) { return tiled_info_nce(x[0], x[1], x[2], t); };
  const auto ids = [](std::int64_t count, std::int64_t classes) {
    std::vector<std::int64_t> numbers;
    for (std::int64_t i = 0; i < count; ++i) numbers.push_back(i * i % classes - 2);
    return Tensor::from(numbers, {count});
  };
  const EqualTargets of_targets{.target_ids = ids(3 * rows, 5), .query_ids = ids(rows, 11)},
      of_pairs{.target_ids = ids(rows, 7), .query_ids = ids(rows, 13)};
  return {{"info_nce, equal targets", [=](Span x) { return info_nce(x[0], x[1], x[2], {.equal_targets = of_targets}); },
           [=](Span x, const TileOptions& t) { return tiled_info_nce(x[0], x[1], x[2], t, of_targets); },
           {matrix(rows, 1), matrix(3 * rows, 2), scale}},
          {"clip_loss, equal pairs", [=](Span x) { return clip_loss(x[0], x[1], x[2], {.equal_targets = of_pairs}); },
           [=](Span x, const TileOptions& t) { return tiled_clip_loss(x[0], x[1], x[2], t, of_pairs); },
           {matrix(rows, 1), matrix(rows, 2), log_scale}},
          {"siglip_loss, equal pairs", [=](Span x) { return siglip_loss(x[0], x[1], x[2], x[3], of_pairs); },
           [=](Span x, const TileOptions& t) { return tiled_siglip_loss(x[0], x[1], x[2], x[3], t, of_pairs); },
           {matrix(rows, 1), matrix(rows, 2), log_scale, bias}},
          {"info_nce, equal targets, scale 0",
           [=](Span x) { return info_nce(x[0], x[1], x[2], {.equal_targets = of_targets}); },
           [=](Span x, const TileOptions& t) { return tiled_info_nce(x[0], x[1], x[2], t, of_targets); },
           {matrix(rows, 1), matrix(3 * rows, 2), Tensor::full({}, 0, dtype)}},
          {"info_nce", info, tiled_info, {matrix(rows, 1), matrix(rows, 2), scale}},
          {"info_nce, hard negatives", info, tiled_info, {matrix(rows, 1), matrix(3 * rows, 2), scale}},
          {"clip_loss", clip, tiled_clip, {matrix(rows, 1), matrix(rows, 2), log_scale}},
          {"clip_loss, clamped", clip, tiled_clip, {matrix(rows, 1), matrix(rows, 2), beyond}},
          {"siglip_loss", [](Span x) { return siglip_loss(x[0], x[1], x[2], x[3]); },
           [](Span x, const TileOptions& t) { return tiled_siglip_loss(x[0], x[1], x[2], x[3], t); },
           {matrix(rows, 1), matrix(rows, 2), log_scale, bias}}};
}

/// The loss, then the gradient of each input, of 3 times the loss.
std::vector<Tensor> value_and_gradients(const LossFunction& loss, const std::vector<Tensor>& inputs) {
  Tape tape;
  std::vector<Variable> leaves;
  for (const Tensor& input : inputs) leaves.push_back(tape.leaf(input));
  Variable value;
  {
    const Recording recording(tape);
    value = ops::scale(loss(leaves), 3.0);
  }
  tape.backward(value);
  std::vector<Tensor> found{value.value()};
  for (const Variable& leaf : leaves) found.push_back(tape.gradient(leaf));
  return found;
}

double relative_difference(const Tensor& found, const Tensor& expected) {
  const std::vector<double> a = doubles(found), b = doubles(expected);
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    size += b[i] * b[i];
  }
  return size == 0 ? std::sqrt(difference) : std::sqrt(difference / size);
}

const std::vector<TileOptions> kTiles{{1, 1}, {1, 7}, {5, 3}, {8, 16}, {64, 8}, {1000, 1000}};

}  // namespace

BOOST_AUTO_TEST_SUITE(tiled_losses)

BOOST_AUTO_TEST_CASE(equal_to_the_plain_losses) {
  for (const std::int64_t rows : {1, 2, 16, 37}) {
    for (const Pair& pair : pairs(rows, 9, DType::kFloat64)) {
      const auto expected = value_and_gradients(pair.plain, pair.inputs);
      for (const TileOptions& tile : kTiles) {
        const auto found = value_and_gradients(pair.with(tile), pair.inputs);
        for (std::size_t i = 0; i < found.size(); ++i) {
          BOOST_TEST(relative_difference(found[i], expected[i]) <= 1e-12,
                     pair.name << ", " << rows << " rows, tile " << *tile.rows << " by " << *tile.columns << ", part "
                               << i << ": " << relative_difference(found[i], expected[i]));
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(float32_follows_float64) {
  for (const std::int64_t width : {3, 130, 300}) {
    const auto exact = pairs(70, width, DType::kFloat64), single = pairs(70, width, DType::kFloat32);
    for (std::size_t p = 0; p < exact.size(); ++p) {
      const auto expected = value_and_gradients(exact[p].plain, [&] {
        std::vector<Tensor> inputs;
        for (const Tensor& input : single[p].inputs) inputs.push_back(input.to(DType::kFloat64));
        return inputs;
      }());
      for (const TileOptions& tile : {TileOptions{}, TileOptions{16, 24}}) {
        const auto found = value_and_gradients(single[p].with(tile), single[p].inputs);
        for (std::size_t i = 0; i < found.size(); ++i) {
          BOOST_TEST(relative_difference(found[i], expected[i]) <= 1e-5,
                     exact[p].name << ", width " << width << ", part " << i << ": "
                                   << relative_difference(found[i], expected[i]));
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(derivatives) {
  for (const Pair& pair : pairs(6, 4, DType::kFloat64)) {
    if (pair.name == "clip_loss, clamped") continue;  // the losses' own tests look at both sides of the clamp
    const GradcheckResult result = gradcheck(pair.with({4, 5}), pair.inputs);
    BOOST_TEST(result.passed, pair.name << ": " << result.message);
  }
}

BOOST_AUTO_TEST_CASE(one_variable_for_both_operands) {
  const Tensor x = random_values({11, 4}, 1), scale = Tensor::full({}, 2.0, DType::kFloat64);
  const auto plain = [&](Span v) { return info_nce(v[0], v[0], Variable(scale)); };
  const auto tiled = [&](Span v) { return tiled_info_nce(v[0], v[0], Variable(scale), {4, 3}); };
  const auto expected = value_and_gradients(plain, {x}), found = value_and_gradients(tiled, {x});
  for (std::size_t i = 0; i < 2; ++i) BOOST_TEST(relative_difference(found[i], expected[i]) <= 1e-12);
}

BOOST_AUTO_TEST_CASE(gradients_are_added_and_constants_get_none) {
  Parameter a("a", random_values({9, 4}, 1)), b("b", random_values({9, 4}, 2));
  const Tensor log_scale = Tensor::full({}, 1.0, DType::kFloat64);
  const auto run = [&] {
    Tape tape;
    Variable loss;
    {
      const Recording recording(tape);
      loss = tiled_clip_loss(a, b, Variable(log_scale), {4, 4});
    }
    tape.backward(loss);
  };
  run();
  const std::vector<double> once = doubles(a.gradient());
  run();
  for (std::size_t i = 0; i < once.size(); ++i) BOOST_TEST(std::abs(doubles(a.gradient())[i] - 2 * once[i]) <= 1e-15);
  b.set_requires_gradient(false);
  b.clear_gradient();
  run();
  BOOST_TEST(!b.gradient().defined());
}

BOOST_AUTO_TEST_CASE(the_same_bits_for_any_number_of_threads) {
  const int before = thread_count();
  for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
    for (const Pair& pair : pairs(150, 140, dtype)) {
      set_thread_count(1);
      const auto expected = value_and_gradients(pair.with({32, 16}), pair.inputs);
      for (const int threads : {2, 4}) {
        set_thread_count(threads);
        const auto found = value_and_gradients(pair.with({32, 16}), pair.inputs);
        for (std::size_t i = 0; i < found.size(); ++i) BOOST_TEST(same_bits(found[i], expected[i]), pair.name);
      }
    }
  }
  set_thread_count(before);
}

BOOST_AUTO_TEST_CASE(memory_for_a_row_of_tiles) {
  constexpr std::int64_t kRows = 4096, kWidth = 64;
  const Tensor a = random_values({kRows, kWidth}, 1, DType::kFloat32),
               b = random_values({kRows, kWidth}, 2, DType::kFloat32);
  for (const EqualTargets& equal : {EqualTargets{}, {.equal_rows = true}}) {
    const PeakMeter meter;
    const std::size_t before = allocator().stats().current;
    value_and_gradients([&](Span x) { return tiled_clip_loss(x[0], x[1], x[2], {64, 128}, equal); },
                        {a, b, Tensor::full({}, 1.0)});
    // Two gradients, one row of tiles, running sums, ids; the logits alone would be 64 MiB.
    const std::size_t ids = equal.some() ? 2 * kRows * 8 : 0;
    BOOST_TEST(meter.peak() - before <= 2 * a.bytes() + 64 * kRows * 4 + 40 * kRows * 4 + ids);
  }
}

BOOST_AUTO_TEST_CASE(large_logits_and_bad_ones) {
  const Tensor same = Tensor::full({40, 8}, 1.0), log_scale = Tensor::full({}, std::log(100.0));
  const auto found = value_and_gradients([](Span x) { return tiled_clip_loss(x[0], x[1], x[2], {16, 16}); },
                                         {same, same, log_scale});
  BOOST_TEST(std::abs(found[0].item() - 3 * std::log(40.0)) <= 1e-3);
  for (const double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    for (Pair pair : pairs(20, 5, DType::kFloat32)) {
      pair.inputs[1].slice(13, 14).fill(bad);
      BOOST_TEST(!std::isfinite(
                     pair.with({8, 8})(std::vector<Variable>(pair.inputs.begin(), pair.inputs.end())).value().item()),
                 pair.name);
    }
  }
}

BOOST_AUTO_TEST_CASE(in_a_cached_step) {
  const ClipSetup setup(21, DType::kFloat64, 0.2);
  const Loss loss = [&](Span r) { return tiled_clip_loss(r[0], r[1], setup.log_scale, {6, 9}); };
  for (const std::int64_t chunk : {1, 4, 21}) check_equal(compare(setup.towers(), loss, {{chunk}}), 1e-12);
  check_equal(compare_steps([&] { return direct_step(setup.towers(), setup.loss()); },
                            [&] { return cached_step(setup.towers(), loss, {{5}}); }, setup.parameters()),
              1e-12);
}

BOOST_AUTO_TEST_CASE(operands_that_do_not_fit) {
  const Variable a = random_values({6, 4}, 1), b = random_values({7, 4}, 2), c = random_values({6, 3}, 3);
  const Variable scale = Tensor::full({}, 1.0, DType::kFloat64);
  BOOST_CHECK_EXCEPTION(tiled_clip_loss(a, b, scale), ShapeError,
                        says({"[6, 4]", "[7, 4]", "as many columns as rows"}));
  BOOST_CHECK_EXCEPTION(tiled_info_nce(a, b, scale), ShapeError, says({"a multiple of rows"}));
  BOOST_CHECK_THROW(tiled_info_nce(a, c, scale), ShapeError);
  BOOST_CHECK_THROW(tiled_info_nce(a, {}, scale), ShapeError);
  BOOST_CHECK_THROW(tiled_info_nce(a, a.value().to(DType::kFloat32), scale), ShapeError);
  BOOST_CHECK_EXCEPTION(tiled_info_nce(a, a, Variable(Tensor::full({2}, 1.0, DType::kFloat64))), ShapeError,
                        says({"scale"}));
  BOOST_CHECK_EXCEPTION(tiled_siglip_loss(a, a, scale, {}), ShapeError, says({"bias"}));
  BOOST_CHECK_EXCEPTION(tiled_info_nce(a, a, scale, {0, 4}), ValueError, says({"0 by 4"}));
  for (const auto op : {kernels::ContrastiveOp::kRows, kernels::ContrastiveOp::kRowsAndColumns}) {
    BOOST_CHECK_EXCEPTION(ops::contrastive_loss(op, a, a, scale, scale), ValueError, says({"contrastive_loss: bias", "none"}));
  }
}

BOOST_AUTO_TEST_SUITE_END()
