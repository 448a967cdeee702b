#include <algorithm>
#include <cmath>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "checks.h"
#include "cuda_device.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/ops/contrastive.h"
#include "tapecache/ops/kernels/table.h"
#include "tapecache/ops/maxsim.h"

// Tiled losses of awkward values on a CUDA device: what they and their gradients are on the CPU, infinities and NaN
// included.

using namespace tapecache;
using namespace tapecache::testing;

namespace {

constexpr std::pair<DType, double> kTypes[] = {{DType::kFloat64, 1e-12}, {DType::kFloat32, 1e-5}};

using TiledLoss = std::function<Variable(std::span<const Variable>)>;

/// The loss, and the gradient of each input.
std::vector<Tensor> outcome(Device device, const std::vector<Tensor>& inputs, const TiledLoss& loss) {
  Tape tape;
  std::vector<Variable> leaves;
  for (const Tensor& t : inputs) leaves.push_back(tape.leaf(t.to(device)));
  Variable value;
  {
    const Recording recording(tape);
    value = loss(leaves);
  }
  tape.backward(value);
  std::vector<Tensor> all{value.value()};
  for (const Variable& leaf : leaves) all.push_back(tape.gradient(leaf));
  return all;
}

/// Equal where either is infinite, both or neither NaN, else within the tolerance.
bool alike(double a, double b, double tolerance) {
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && std::isnan(b);
  if (std::isinf(a) || std::isinf(b)) return a == b;
  return std::abs(a - b) <= tolerance * std::max(1.0, std::abs(b));
}

void check_as_on_cpu(const std::string& what, const std::vector<Tensor>& inputs, double tolerance,
                     const TiledLoss& loss) {
  const std::vector<Tensor> found = outcome(kCuda, inputs, loss), expected = outcome(Device::cpu(), inputs, loss);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const std::vector<double> a = doubles(found[i]), b = doubles(expected[i]);
    BOOST_REQUIRE(a.size() == b.size());
    for (std::size_t k = 0; k < a.size(); ++k) {
      BOOST_CHECK_MESSAGE(alike(a[k], b[k], tolerance),
                          what << ": " << i << "[" << k << "] is " << a[k] << ", on the CPU " << b[k]);
    }
  }
}

Tensor with_row(const Tensor& x, std::int64_t row, double value) {
  Tensor changed = x.clone();
  changed.slice(row, row + 1).fill(value);
  return changed;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(cuda)

// Rows and columns of one panel are summed in parts of 128 rows by 128 columns (64 in f64), and a panel is 8 tiles
// wide.
BOOST_AUTO_TEST_CASE(tiled_contrastive_losses_at_the_edges_of_tiles, *on_device) {
  using kernels::ContrastiveOp;
  using ops::TileOptions;
  const std::vector<ops::TileOptions> tiles{{}, {130, 17}, {128, 16}, {64, {}}, {{}, 9}, {127, 33}};
  for (const ContrastiveOp op : {ContrastiveOp::kRows, ContrastiveOp::kRowsAndColumns, ContrastiveOp::kSigmoid}) {
    for (const std::int64_t rows : {1, 63, 128, 129, 300}) {
      for (const std::int64_t step : {1, 2}) {
        if (step > 1 && op != ContrastiveOp::kRows) continue;
        for (const auto& [dtype, tolerance] : kTypes) {
          const Tensor a = random_values({rows, 3}, 1, dtype), b = random_values({step * rows, 3}, 2, dtype),
                       scale = Tensor::full({}, 4, dtype);
          for (const ops::TileOptions& tile : tiles) {
            const TiledLoss loss = [op, tile](std::span<const Variable> x) {
              const Variable bias = op == ContrastiveOp::kSigmoid
                                        ? Variable(Tensor::full({}, -3, x[0].dtype(), x[0].device()))
                                        : Variable();
              return ops::contrastive_loss(op, x[0], x[1], x[2], bias, tile);
            };
            check_as_on_cpu(std::to_string(rows) + " rows, tiles of " + std::to_string(tile.rows.value_or(0)) + " by " +
                                std::to_string(tile.columns.value_or(0)),
                            {a, b, scale}, tolerance, loss);
          }
        }
      }
    }
  }
}

/// Ids of which many are equal.
Tensor ids_of(std::int64_t count, std::int64_t classes) {
  std::vector<std::int64_t> numbers;
  for (std::int64_t i = 0; i < count; ++i) numbers.push_back(i * i % classes - 2);
  return Tensor::from(numbers, {count});
}

BOOST_AUTO_TEST_CASE(tiled_losses_leave_equal_targets_out, *on_device) {
  using kernels::ContrastiveOp;
  using ops::TileOptions;
  for (const ContrastiveOp op : {ContrastiveOp::kRows, ContrastiveOp::kRowsAndColumns, ContrastiveOp::kSigmoid}) {
    for (const std::int64_t step : {1, 2}) {
      if (step > 1 && op != ContrastiveOp::kRows) continue;
      for (const auto& [dtype, tolerance] : kTypes) {
        constexpr std::int64_t kRows = 150;
        const Tensor a = random_values({kRows, 3}, 1, dtype), b = random_values({step * kRows, 3}, 2, dtype),
                     targets = ids_of(step * kRows, 31), queries = ids_of(kRows, 61);
        for (const double factor : {4.0, 0.0, -3.0}) {
          for (const ops::TileOptions& tile : std::vector<ops::TileOptions>{{}, {130, 17}, {7, 3}}) {
            for (const ops::EqualTargets& equal : {ops::EqualTargets{.target_ids = targets},
                                                   {.target_ids = targets.to(kCuda), .query_ids = queries},
                                                   {.query_ids = queries}}) {
              const TiledLoss loss = [&](std::span<const Variable> x) {
                const Variable bias = op == ContrastiveOp::kSigmoid
                                          ? Variable(Tensor::full({}, -3, x[0].dtype(), x[0].device()))
                                          : Variable();
                return ops::contrastive_loss(op, x[0], x[1], x[2], bias, tile, equal);
              };
              check_as_on_cpu("scale " + std::to_string(factor), {a, b, Tensor::full({}, factor, dtype)}, tolerance,
                              loss);
            }
          }
        }
      }
    }
  }
  for (const auto& [dtype, tolerance] : kTypes) {
    const Tensor q = random_values({13, 7, 5}, 1, dtype), d = random_values({26, 5, 5}, 2, dtype),
                 scale = Tensor::full({}, 0.5, dtype), ids = ids_of(26, 11);
    for (const ops::TileOptions& tile : std::vector<ops::TileOptions>{{}, {4, 3}}) {
      check_as_on_cpu("equal documents", {q, d, scale}, tolerance, [&](std::span<const Variable> x) {
        return ops::maxsim_loss(x[0], {}, x[1], {}, x[2], tile, {.target_ids = ids});
      });
    }
  }
}

BOOST_AUTO_TEST_CASE(memory_for_tiles_of_the_device_s_own_size, *on_device) {
  using namespace kernels;
  constexpr std::int64_t kSamples = 131072;
  const TileSizes tile = find(&ContrastiveKernels<float>::contrastive_tile, "contrastive_loss", kCuda)();
  const Contrastive c{ContrastiveOp::kRowsAndColumns, kSamples, kSamples, 512, 1, tile.rows, tile.cols};
  const std::int64_t workspace = find(&ContrastiveKernels<float>::contrastive_workspace, "contrastive_loss", kCuda)(c);
  const std::int64_t bytes = 4 * workspace + 8 * c.partials() + 2 * 8 * kSamples;
  BOOST_TEST(bytes > 0);
  BOOST_TEST(bytes <= std::int64_t{80} << 20);
}

BOOST_AUTO_TEST_CASE(tiled_contrastive_losses_of_awkward_values, *on_device) {
  using kernels::ContrastiveOp;
  for (const ContrastiveOp op : {ContrastiveOp::kRows, ContrastiveOp::kRowsAndColumns, ContrastiveOp::kSigmoid}) {
    const TiledLoss loss = [op](std::span<const Variable> x) {
      const Variable bias =
          op == ContrastiveOp::kSigmoid ? Variable(Tensor::full({}, -3, x[0].dtype(), x[0].device())) : Variable();
      return ops::contrastive_loss(op, x[0], x[1], x[2], bias, {5, 2});
    };
    for (const auto& [dtype, tolerance] : kTypes) {
      const Tensor a = random_values({21, 6}, 1, dtype), b = random_values({21, 6}, 2, dtype);
      const auto scale = [of = dtype](double value) { return Tensor::full({}, value, of); };
      // Rounding of a logit is multiplied by the scale before it is exponentiated.
      check_as_on_cpu("large logits", {a, b, scale(500)}, 100 * tolerance, loss);
      check_as_on_cpu("equal logits", {a, b, scale(0)}, tolerance, loss);
      check_as_on_cpu("infinite logits", {a, with_row(b, 7, kInfinity), scale(1)}, tolerance, loss);
      check_as_on_cpu("logits that are no numbers", {a, with_row(b, 7, kNaN), scale(1)}, tolerance, loss);
    }
  }
}

BOOST_AUTO_TEST_CASE(tiled_maxsim_loss_of_awkward_values, *on_device) {
  Tensor mask = Tensor::full({20, 40}, 1, DType::kBool);
  mask.slice(4, 5).fill(0);
  mask.mutable_data<bool>()[4 * 40 + 39] = true;
  const TiledLoss loss = [mask](std::span<const Variable> x) {
    return ops::maxsim_loss(x[0], {}, x[1], mask.to(x[0].device()), x[2], {3, 2});
  };
  for (const auto& [dtype, tolerance] : kTypes) {
    const Tensor q = random_values({10, 3, 4}, 1, dtype), d = random_values({20, 40, 4}, 2, dtype),
                 scale = Tensor::full({}, 2, dtype);
    check_as_on_cpu("more tokens than a warp", {q, d, scale}, tolerance, loss);
    check_as_on_cpu("ties", {q, Tensor::full({20, 40, 4}, 0.5, dtype), scale}, tolerance, loss);
    check_as_on_cpu("similarities that are no numbers", {q, with_row(d, 3, kNaN), scale}, tolerance, loss);
  }
}

BOOST_AUTO_TEST_CASE(tiled_maxsim_loss_at_the_edges_of_tiles, *on_device) {
  using ops::TileOptions;
  for (const auto& [query_tokens, width] : {std::pair{1, 33}, {7, 1}, {7, 300}, {40, 33}}) {
    for (const auto& [dtype, tolerance] : kTypes) {
      const Tensor q = random_values({13, query_tokens, width}, 1, dtype), d = random_values({26, 5, width}, 2, dtype),
                   scale = Tensor::full({}, 0.5, dtype);
      for (const ops::TileOptions& tile : std::vector<ops::TileOptions>{{}, {4, 3}, {5, {}}, {{}, 2}}) {
        const TiledLoss loss = [tile](std::span<const Variable> x) {
          return ops::maxsim_loss(x[0], {}, x[1], {}, x[2], tile);
        };
        check_as_on_cpu(std::to_string(query_tokens) + " query tokens, width " + std::to_string(width), {q, d, scale},
                        tolerance, loss);
      }
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
