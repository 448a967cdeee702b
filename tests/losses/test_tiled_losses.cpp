#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "gradcache_checks.h"
#include "loss_table.h"
#include "tapecache/autograd/gradcheck.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/core/allocator.h"
#include "tapecache/core/device.h"
#include "tapecache/core/parallel_for.h"
#include "tapecache/losses/losses.h"
#include "tapecache/ops/contrastive.h"

using namespace tapecache;
using namespace tapecache::losses;
using namespace tapecache::testing;
using tapecache::ops::TileOptions;

namespace {

using Span = std::span<const Variable>;
using LossFunction = std::function<Variable(Span)>;

/// Rows of the table that are also in tiles.
std::vector<LossRow> tiled_rows(std::int64_t samples, std::int64_t width) {
  std::vector<LossRow> rows = loss_rows(samples, width);
  std::erase_if(rows, [](const LossRow& row) { return !row.in_tiles || row.refuses_tiles; });
  return rows;
}

LossFunction in_tiles(const LossRow& row, const TileOptions& tile) {
  return [loss = row.in_tiles, tile](Span x) { return loss(x, tile); };
}

std::vector<Tensor> in_type(const std::vector<Tensor>& tensors, DType dtype) {
  std::vector<Tensor> all;
  for (const Tensor& t : tensors) all.push_back(t.to(dtype));
  return all;
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
  for (const std::int64_t samples : {1, 2, 16, 37}) {
    for (const LossRow& row : tiled_rows(samples, 9)) {
      std::vector<Tensor> without_scale = row.inputs;
      without_scale[2] = Tensor::scalar(0.0);  // or its logarithm
      for (const std::vector<Tensor>& inputs : {row.inputs, without_scale}) {
        const auto expected = value_and_gradients(row.loss, inputs);
        for (const TileOptions& tile : kTiles) {
          const auto found = value_and_gradients(in_tiles(row, tile), inputs);
          for (std::size_t i = 0; i < found.size(); ++i) {
            BOOST_TEST(relative_difference(found[i], expected[i]) <= 1e-12,
                       row.name << ", " << samples << " samples, tile " << *tile.rows << " by " << *tile.columns
                                << ", part " << i << ": " << relative_difference(found[i], expected[i]));
          }
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(a_scale_beyond_the_clamp) {
  const Tensor a = random_values({16, 9}, 1), b = random_values({16, 9}, 2), beyond = Tensor::scalar(9.0);
  const auto of = [](const Tiles& tiles) {
    return [tiles](Span x) { return clip_loss(x[0], x[1], {.scale = Scale::from_log(x[2]), .tiles = tiles}); };
  };
  const auto expected = value_and_gradients(of(std::nullopt), {a, b, beyond});
  BOOST_TEST(expected.back().item() == 0);
  for (const TileOptions& tile : kTiles) {
    const auto found = value_and_gradients(of(tile), {a, b, beyond});
    for (std::size_t i = 0; i < found.size(); ++i) BOOST_TEST(relative_difference(found[i], expected[i]) <= 1e-12);
  }
}

BOOST_AUTO_TEST_CASE(float32_follows_float64) {
  for (const std::int64_t width : {3, 130, 300}) {
    for (const LossRow& row : tiled_rows(70, width)) {
      if (row.inputs[0].rank() > 2) continue;  // the largest of nearly equal similarities may be another
      const std::vector<Tensor> single = in_type(row.inputs, DType::kFloat32);
      const auto expected = value_and_gradients(row.loss, in_type(single, DType::kFloat64));
      for (const TileOptions& tile : {TileOptions{}, TileOptions{16, 24}}) {
        const auto found = value_and_gradients(in_tiles(row, tile), single);
        for (std::size_t i = 0; i < found.size(); ++i) {
          BOOST_TEST(
              relative_difference(found[i], expected[i]) <= 1e-5,
              row.name << ", width " << width << ", part " << i << ": " << relative_difference(found[i], expected[i]));
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(one_variable_for_both_operands) {
  const Tensor x = random_values({11, 4}, 1), scale = Tensor::full({}, 2.0, DType::kFloat64);
  const auto plain = [&](Span v) { return info_nce(v[0], v[0], {.scale = scale}); };
  const auto tiled = [&](Span v) { return info_nce(v[0], v[0], {.scale = scale, .tiles = {{4, 3}}}); };
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
      loss = clip_loss(a, b, {.scale = Scale::from_log(log_scale), .tiles = {{4, 4}}});
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
    for (const LossRow& row : tiled_rows(150, 140)) {
      const std::vector<Tensor> inputs = in_type(row.inputs, dtype);
      set_thread_count(1);
      const auto expected = value_and_gradients(in_tiles(row, {32, 16}), inputs);
      for (const int threads : {2, 4}) {
        set_thread_count(threads);
        const auto found = value_and_gradients(in_tiles(row, {32, 16}), inputs);
        for (std::size_t i = 0; i < found.size(); ++i) BOOST_TEST(same_bits(found[i], expected[i]), row.name);
      }
    }
  }
  set_thread_count(before);
}

BOOST_AUTO_TEST_CASE(memory_for_a_row_of_tiles) {
  constexpr std::int64_t kRows = 4096, kWidth = 64;
  const Tensor a = random_values({kRows, kWidth}, 1, DType::kFloat32),
               b = random_values({kRows, kWidth}, 2, DType::kFloat32);
  for (const ops::EqualTargets& equal : {ops::EqualTargets{}, {.equal_rows = true}}) {
    const PeakMeter meter;
    const std::size_t before = allocator().stats().current;
    value_and_gradients(
        [&](Span x) {
          return clip_loss(x[0], x[1], {.scale = Scale::from_log(x[2]), .equal_targets = equal, .tiles = {{64, 128}}});
        },
        {a, b, Tensor::full({}, 1.0)});
    // Two gradients, one row of tiles, running sums, ids; the logits alone would be 64 MiB.
    const std::size_t ids = equal.some() ? 2 * kRows * 8 : 0;
    BOOST_TEST(meter.peak() - before <= 2 * a.bytes() + 64 * kRows * 4 + 40 * kRows * 4 + ids);
  }
}

BOOST_AUTO_TEST_CASE(large_logits_and_bad_ones) {
  const Tensor same = Tensor::full({40, 8}, 1.0), log_scale = Tensor::full({}, std::log(100.0));
  const auto found = value_and_gradients(
      [](Span x) {
        return clip_loss(x[0], x[1], {.scale = Scale::from_log(x[2]), .tiles = {{16, 16}}});
      },
      {same, same, log_scale});
  BOOST_TEST(std::abs(found[0].item() - 3 * std::log(40.0)) <= 1e-3);
  for (const double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    for (const LossRow& row : tiled_rows(20, 5)) {
      std::vector<Tensor> inputs = in_type(row.inputs, DType::kFloat32);
      inputs[1] = inputs[1].clone();
      inputs[1].slice(13, 14).fill(bad);
      BOOST_TEST(!std::isfinite(value_and_gradients(in_tiles(row, {8, 8}), inputs)[0].item()), row.name);
    }
  }
}

BOOST_AUTO_TEST_CASE(in_a_cached_step) {
  const ClipSetup setup(21, DType::kFloat64, 0.2);
  const gradcache::Loss loss = [&](Span r) {
    return clip_loss(r[0], r[1], {.scale = Scale::from_log(setup.log_scale), .tiles = {{6, 9}}});
  };
  for (const std::int64_t chunk : {1, 4, 21}) check_equal(gradcache::compare(setup.towers(), loss, {{chunk}}), 1e-12);
  check_equal(
      gradcache::compare_steps([&] { return gradcache::direct_step(setup.towers(), setup.loss()); },
                               [&] { return gradcache::cached_step(setup.towers(), loss, {{5}}); }, setup.parameters()),
      1e-12);
}

BOOST_AUTO_TEST_CASE(operands_that_do_not_fit) {
  const Variable a = random_values({6, 4}, 1), b = random_values({7, 4}, 2);
  const Variable scale = Tensor::scalar(1.0);
  const auto rows = kernels::ContrastiveOp::kRows;
  const Variable single = a.value().to(DType::kFloat32), one = Tensor::scalar(1.0f);
  BOOST_CHECK_EXCEPTION(ops::contrastive_loss(rows, a, single, scale), DTypeError,
                        says({"contrastive_loss", "float32", "one type"}));
  BOOST_CHECK_EXCEPTION(ops::contrastive_loss(rows, a, a, one), DTypeError,
                        says({"contrastive_loss: scale is float32"}));
  BOOST_CHECK_EXCEPTION(ops::contrastive_loss(rows, a, a, scale, {}, {0, 4}), ValueError,
                        says({"contrastive_loss", "0 by 4"}));
  for (const auto op : {kernels::ContrastiveOp::kRows, kernels::ContrastiveOp::kRowsAndColumns}) {
    BOOST_CHECK_EXCEPTION(ops::contrastive_loss(op, a, a, scale, scale), ValueError,
                          says({"contrastive_loss: bias", "none"}));
    BOOST_CHECK_EXCEPTION(ops::contrastive_loss(op, a, b, scale), ShapeError, says({"[6, 4]", "[7, 4]"}));
    BOOST_CHECK_EXCEPTION(ops::contrastive_loss(op, a, {}, scale), ValueError, says({"b is undefined"}));
    BOOST_CHECK_EXCEPTION(ops::contrastive_loss(op, a, a, Tensor::zeros({2}, DType::kFloat64)), ShapeError,
                          says({"scale"}));
  }
  BOOST_CHECK_EXCEPTION(ops::contrastive_loss(kernels::ContrastiveOp::kSigmoid, a, a, scale), ValueError,
                        says({"bias is undefined"}));
}

BOOST_AUTO_TEST_SUITE_END()
