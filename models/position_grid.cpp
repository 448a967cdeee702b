#include "tapecache/models/position_grid.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "tapecache/autograd/modes.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/linear.h"

namespace tapecache::models::detail {

namespace {

/// Keys' cubic kernel (Keys 1981).
double cubic(double x, double a) {
  x = std::abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return a * (((x - 5) * x + 8) * x - 4);
  return 0;
}

/// What each of `to` places is of `from` ones: a row of weights each.
std::vector<double> bicubic_weights(std::int64_t from, std::int64_t to, bool antialias) {
  std::vector<double> weights(static_cast<std::size_t>(from * to));
  const double scale = static_cast<double>(from) / static_cast<double>(to);
  for (std::int64_t i = 0; i < to; ++i) {
    double* const row = weights.data() + i * from;
    const double center = scale * (static_cast<double>(i) + 0.5);
    if (!antialias) {
      const auto first = static_cast<std::int64_t>(std::floor(center - 0.5));
      for (std::int64_t j = first - 1; j <= first + 2; ++j) {
        row[std::clamp<std::int64_t>(j, 0, from - 1)] += cubic(static_cast<double>(j) - (center - 0.5), -0.75);
      }
      continue;
    }
    const double stretch = std::max(scale, 1.0), support = 2 * stretch;
    const auto begin = std::max<std::int64_t>(0, static_cast<std::int64_t>(center - support + 0.5));
    const auto end = std::min<std::int64_t>(from, static_cast<std::int64_t>(center + support + 0.5));
    double sum = 0;
    for (std::int64_t j = begin; j < end; ++j) {
      row[j] = cubic((static_cast<double>(j) - center + 0.5) / stretch, -0.5);
      sum += row[j];
    }
    for (std::int64_t j = begin; j < end; ++j) row[j] /= sum;
  }
  return weights;
}

Variable weights_like(const Variable& x, std::int64_t from, std::int64_t to, bool antialias) {
  return Variable(Tensor::from(bicubic_weights(from, to, antialias), {to, from}).to(x.dtype()).to(x.device()));
}

}  // namespace

Variable resized_grid(const Variable& x, std::int64_t side, std::int64_t rows, std::int64_t columns, bool antialias) {
  const Autocast whole(DType::kFloat32);  // in 16 bits neighbouring positions are alike
  const std::int64_t width = x.size(1);
  const Variable down = ops::matmul(weights_like(x, side, rows, antialias), ops::reshape(x, {side, side * width}));
  const Variable across =
      ops::matmul(weights_like(x, side, columns, antialias), ops::reshape(down, {rows, side, width}));
  return ops::reshape(across, {rows * columns, width});
}

}  // namespace tapecache::models::detail
