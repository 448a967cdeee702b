#include <algorithm>
#include <cmath>
#include <utility>

#include "op_table.h"
#include "tapecache/ops/normalize.h"
#include "tapecache/ops/reduce.h"

namespace tapecache::testing {

namespace {

using Row = std::vector<double>;

Row naive_softmax(const Row& x) {
  const double logsumexp = naive_logsumexp(x);
  Row y;
  for (const double v : x) y.push_back(std::exp(v - logsumexp));
  return y;
}

Row naive_log_softmax(const Row& x) {
  const double logsumexp = naive_logsumexp(x);
  Row y;
  for (const double v : x) y.push_back(v - logsumexp);
  return y;
}

NaiveArray naive_masked_softmax(std::span<const NaiveArray> x) {
  NaiveArray y = x[0];
  std::int64_t at = 0;
  for_each_index(y.shape, [&](const Index& index) { y[at++] = broadcast_at(x[1], index) != 0 ? 1 : 0; });
  const std::int64_t width = y.size(-1);
  for (std::int64_t begin = 0; begin < y.shape.numel(); begin += width) {
    Row kept;
    for (std::int64_t i = begin; i < begin + width; ++i) {
      if (y[i] != 0) kept.push_back(x[0][i]);
    }
    if (kept.empty()) continue;
    const double logsumexp = naive_logsumexp(kept);
    for (std::int64_t i = begin; i < begin + width; ++i) {
      if (y[i] != 0) y[i] = std::exp(x[0][i] - logsumexp);
    }
  }
  return y;
}

Row far_out() { return {500, -500, 499, 1e4, 1e4, 0, -1e4, -1e4, -1e4}; }

void add_softmax_rows(std::vector<OpRow>& rows) {
  const auto row = [&](const std::string& name, Input input, std::vector<Input> large = {}) {
    const double flops = large.empty() ? 0 : 24.0 * static_cast<double>(large[0].shape.numel());
    for (const bool log : {false, true}) {
      rows.push_back(
          {.name = (log ? "log_softmax" : "softmax") + name,
           .inputs = {input},
           .op = [f = log ? ops::log_softmax : ops::softmax](std::span<const Variable> x) { return f(x[0]); },
           .reference =
               [log](std::span<const NaiveArray> x) {
                 return naive_rows(x[0], log ? naive_log_softmax : naive_softmax);
               },
           .large = large,
           .flops = flops});
    }
  };
  row("", floating({3, 5}, -3, 3), {floating({1030, 515}, -3, 3)});
  row("_of_tokens", floating({2, 3, 4}, -3, 3));
  row("_of_vector", floating({6}, -3, 3));
  row("_single_column", floating({3, 1}));
  row("_no_rows", floating({0, 3}));
  row("_far_out", floating({3, 3}, far_out()));

  const auto masked = [&](const std::string& name, Input x, Input m, std::vector<Input> large = {}) {
    const double flops = large.empty() ? 0 : 24.0 * static_cast<double>(large[0].shape.numel());
    rows.push_back({.name = name,
                    .inputs = {std::move(x), std::move(m)},
                    .op = [](std::span<const Variable> v) { return ops::masked_softmax(v[0], v[1].value()); },
                    .reference = naive_masked_softmax,
                    .large = std::move(large),
                    .flops = flops});
  };
  masked("masked_softmax", floating({3, 4}, -3, 3), mask({3, 4}, {1, 1, 0, 1, 0, 1, 0, 0, 1, 1, 1, 1}));
  masked("masked_softmax_with_dead_row", floating({3, 4}, -3, 3), mask({3, 4}, {1, 0, 0, 1, 0, 0, 0, 0, 1, 1, 0, 1}));
  masked("masked_softmax_all_dead", floating({2, 3}), mask({3}, {0, 0, 0}));
  masked("masked_softmax_mask_of_last_axis", floating({2, 3, 4}), mask({4}, {1, 0, 1, 1}));
  masked("masked_softmax_mask_per_sample", floating({3, 2, 4}), mask({3, 1, 4}, {1, 1, 1, 0, 0, 0, 0, 0, 1, 1, 1, 1}),
         {floating({48, 77, 77}), mask({48, 1, 77})});
  masked("masked_softmax_mask_per_row", floating({2, 3, 4}), mask({3, 1}, {1, 0, 1}));
  masked("masked_softmax_causal", floating({2, 3, 3}), mask({3, 3}, {1, 0, 0, 1, 1, 0, 1, 1, 1}));
  masked("masked_softmax_one_mask_entry", floating({2, 3}), mask({}, {1}));
  masked("masked_softmax_far_out", floating({3, 3}, far_out()), mask({3, 3}, {1, 1, 0, 0, 1, 1, 1, 0, 1}));
}

NaiveArray naive_cross_entropy(std::span<const NaiveArray> x, ops::Reduction reduction) {
  const std::int64_t rows = x[0].size(0), classes = x[0].size(1);
  NaiveArray loss(Shape{rows});
  for (std::int64_t r = 0; r < rows; ++r) {
    const Row logits(x[0].values.begin() + r * classes, x[0].values.begin() + (r + 1) * classes);
    loss[r] = -naive_log_softmax(logits)[static_cast<std::size_t>(x[1][r])];
  }
  if (reduction == ops::Reduction::kNone) return loss;
  const double total = naive_sum(loss.values);
  return NaiveArray(Shape{}, reduction == ops::Reduction::kSum ? total : total / static_cast<double>(rows));
}

void add_cross_entropy_rows(std::vector<OpRow>& rows) {
  const auto row = [&](const std::string& name, ops::Reduction reduction, Input logits, Input targets,
                       std::vector<Input> large = {}) {
    const double flops = large.empty() ? 0 : 24.0 * static_cast<double>(large[0].shape.numel());
    rows.push_back(
        {.name = name,
         .inputs = {std::move(logits), std::move(targets)},
         .op = [=](std::span<const Variable> x) { return ops::cross_entropy(x[0], x[1].value(), reduction); },
         .reference = [=](std::span<const NaiveArray> x) { return naive_cross_entropy(x, reduction); },
         .large = std::move(large),
         .flops = flops});
  };
  using ops::Reduction;
  row("cross_entropy_none", Reduction::kNone, floating({5, 4}, -3, 3), indices({5}, 4));
  row("cross_entropy_mean", Reduction::kMean, floating({5, 4}, -3, 3), indices({5}, 4),
      {floating({1030, 1030}, -3, 3), indices({1030}, 1030)});
  row("cross_entropy_sum", Reduction::kSum, floating({5, 4}, -3, 3), indices({5}, 4));
  row("cross_entropy_int32_targets", Reduction::kNone, floating({5, 4}, -3, 3), indices({5}, 4, DType::kInt32));
  row("cross_entropy_single_class", Reduction::kMean, floating({3, 1}), indices({3}, 1));
  row("cross_entropy_far_out", Reduction::kNone, floating({3, 3}, far_out()),
      indices({3}, std::vector<double>{1, 2, 0}));
  // The logsumexp that is kept is known to half a unit in the last place, 5e-4 at 1e4.
  rows.back().float32_gradient_tolerance = 1e-3;
  row("cross_entropy_no_rows_sum", Reduction::kSum, floating({0, 3}), indices({0}, 3));
  row("cross_entropy_no_rows_none", Reduction::kNone, floating({0, 3}), indices({0}, 3));
}

OpRow layer_norm_row(std::string name, Input x, double epsilon, std::vector<Input> large = {}) {
  const Shape width{x.shape[-1]};
  const double flops = large.empty() ? 0 : 7.0 * static_cast<double>(large[0].shape.numel());
  return {.name = std::move(name),
          .inputs = {std::move(x), floating(width, 0.5, 1.5), floating(width)},
          .op = [=](std::span<const Variable> v) { return ops::layer_norm(v[0], v[1], v[2], epsilon); },
          .reference = [=](std::span<const NaiveArray> v) { return naive_layer_norm(v[0], v[1], v[2], epsilon); },
          .large = std::move(large),
          .flops = flops};
}

void add_layer_norm_rows(std::vector<OpRow>& rows) {
  const auto at_width = [](const Shape& shape) {
    return std::vector<Input>{floating(shape), floating({shape[-1]}, 0.5, 1.5), floating({shape[-1]})};
  };
  rows.push_back(layer_norm_row("layer_norm", floating({4, 6}), 1e-5, at_width({2050, 515})));
  rows.push_back(layer_norm_row("layer_norm_of_tokens", floating({2, 3, 5}), 1e-5));
  rows.push_back(layer_norm_row("layer_norm_of_vector", floating({6}), 1e-5));
  rows.push_back(layer_norm_row("layer_norm_large_epsilon", floating({3, 4}), 0.5));
  rows.push_back(layer_norm_row("layer_norm_no_rows", floating({0, 4}), 1e-5));

  const auto with_residual = [&](const std::string& name, const Shape& shape, std::vector<Input> large = {}) {
    OpRow row = layer_norm_row(name, floating(shape), 1e-5, std::move(large));
    row.inputs.push_back(floating(shape));
    if (!row.large.empty()) row.large.push_back(row.large[0]);
    row.op = [](std::span<const Variable> v) { return ops::layer_norm(v[0], v[1], v[2], 1e-5, v[3]); };
    row.reference = [](std::span<const NaiveArray> v) {
      const NaiveArray sum = naive_binary(v[0], v[3], [](double x, double residual) { return x + residual; });
      return naive_layer_norm(sum, v[1], v[2], 1e-5);
    };
    rows.push_back(std::move(row));
  };
  with_residual("layer_norm_of_sum", {2, 3, 5}, at_width({2050, 515}));
  with_residual("layer_norm_of_sum_no_rows", {0, 4});

  OpRow constant = layer_norm_row("layer_norm_constant_row", floating({2, 4}, {3, 3, 3, 3, 1, 2, 3, 4}), 1e-5);
  constant.differentiable = false;  // it is, but too steep at variance 0 for a central difference
  rows.push_back(std::move(constant));

  // The mean is known to half a unit in the last place, 3e-5 at 1000, where the spread is 0.6.
  OpRow shifted = layer_norm_row("layer_norm_far_from_zero", floating({3, 16}, 999, 1001), 1e-5);
  shifted.float32_tolerance = 2e-4;
  shifted.float32_gradient_tolerance = 1e-3;
  rows.push_back(std::move(shifted));
}

NaiveArray naive_rms_norm(const NaiveArray& x, const NaiveArray& gamma, double epsilon) {
  return naive_rows(x, [&](const std::vector<double>& row) {
    double square = 0;
    for (const double v : row) square += v * v / static_cast<double>(row.size());
    std::vector<double> y;
    for (std::size_t i = 0; i < row.size(); ++i) y.push_back(row[i] / std::sqrt(square + epsilon) * gamma.values[i]);
    return y;
  });
}

void add_rms_norm_rows(std::vector<OpRow>& rows) {
  const auto row = [&](const std::string& suffix, Input x, double epsilon, std::vector<Input> large = {}) {
    const Shape width{x.shape[-1]};
    const double flops = large.empty() ? 0 : 4.0 * static_cast<double>(large[0].shape.numel());
    rows.push_back({.name = "rms_norm" + suffix,
                    .inputs = {std::move(x), floating(width, 0.5, 1.5)},
                    .op = [=](std::span<const Variable> v) { return ops::rms_norm(v[0], v[1], epsilon); },
                    .reference = [=](std::span<const NaiveArray> v) { return naive_rms_norm(v[0], v[1], epsilon); },
                    .large = std::move(large),
                    .flops = flops});
  };
  row("", floating({4, 6}), 1e-6, {floating({2050, 515}), floating({515}, 0.5, 1.5)});
  row("_of_tokens", floating({2, 3, 5}), 1e-6);
  row("_of_vector", floating({6}), 1e-6);
  row("_large_epsilon", floating({3, 4}), 0.5);
  row("_of_zeros", floating({2, 3}, {0, 0, 0, 1, 2, 3}), 1e-2);
  row("_no_rows", floating({0, 4}), 1e-6);
}

OpRow l2_normalize_row(std::string name, Input x, double epsilon, std::vector<Input> large = {}) {
  const double flops = large.empty() ? 0 : 3.0 * static_cast<double>(large[0].shape.numel());
  return {.name = std::move(name),
          .inputs = {std::move(x)},
          .op = [=](std::span<const Variable> v) { return ops::l2_normalize(v[0], epsilon); },
          .reference =
              [=](std::span<const NaiveArray> v) {
                return naive_rows(v[0], [&](Row row) {
                  double square = 0;
                  for (const double value : row) square += value * value;
                  for (double& value : row) value /= std::max(std::sqrt(square), epsilon);
                  return row;
                });
              },
          .large = std::move(large),
          .flops = flops};
}

void add_l2_normalize_rows(std::vector<OpRow>& rows) {
  rows.push_back(l2_normalize_row("l2_normalize", floating({4, 6}), 1e-12, {floating({2050, 515})}));
  rows.push_back(l2_normalize_row("l2_normalize_of_tokens", floating({2, 3, 5}), 1e-12));
  rows.push_back(l2_normalize_row("l2_normalize_of_vector", floating({5}), 1e-12));
  rows.push_back(l2_normalize_row("l2_normalize_below_epsilon", floating({3, 4}), 10));
  rows.push_back(
      l2_normalize_row("l2_normalize_some_below_epsilon", floating({2, 3}, {0.25, 0.5, -0.25, 2, -3, 1.5}), 1));
  rows.push_back(l2_normalize_row("l2_normalize_no_rows", floating({0, 3}), 1e-12));
  OpRow zero = l2_normalize_row("l2_normalize_zero_row", floating({3, 3}, {1, 2, 3, 0, 0, 0, -1, 0, 2}), 1e-12);
  zero.differentiable = false;
  rows.push_back(std::move(zero));
}

/// By the array's own statistics, or by those given as inputs 3 and 4.
NaiveArray naive_batch_norm(std::span<const NaiveArray> x, double epsilon) {
  const std::int64_t channels = x[0].size(1);
  std::vector<Row> of_channel(static_cast<std::size_t>(channels));
  for_each_index(x[0].shape, [&](const Index& at) {
    of_channel[static_cast<std::size_t>(at[1])].push_back(x[0][flat(x[0].shape, at)]);
  });
  NaiveArray y = x[0];
  for (std::int64_t k = 0; k < channels; ++k) {
    const Row& row = of_channel[static_cast<std::size_t>(k)];
    const double count = static_cast<double>(row.size());
    double mean = naive_sum(row) / count, variance = 0;
    for (const double v : row) variance += (v - mean) * (v - mean) / count;
    if (x.size() == 5) {
      mean = x[3][k];
      variance = x[4][k];
    }
    for_each_index(y.shape, [&](const Index& at) {
      double& value = y[flat(y.shape, at)];
      if (at[1] == k) value = (value - mean) / std::sqrt(variance + epsilon) * x[1][k] + x[2][k];
    });
  }
  return y;
}

std::vector<Input> batch_norm_inputs(Input x) {
  const Shape channels{x.shape[1]};
  return {std::move(x), floating(channels, 0.5, 1.5), floating(channels)};
}

OpRow batch_norm_row(std::string name, Input x, double epsilon = 1e-5, std::vector<Input> large = {}) {
  const double flops = large.empty() ? 0 : 7.0 * static_cast<double>(large[0].shape.numel());
  return {.name = std::move(name),
          .inputs = batch_norm_inputs(std::move(x)),
          .op = [=](std::span<const Variable> v) { return ops::batch_norm(v[0], v[1], v[2], epsilon).y; },
          .reference = [=](std::span<const NaiveArray> v) { return naive_batch_norm(v, epsilon); },
          .large = std::move(large),
          .flops = flops};
}

/// By given statistics: constants, which no gradient goes through.
OpRow frozen_batch_norm_row(std::string name, Input x, std::vector<Input> large = {}) {
  const auto statistics = [](std::int64_t channels, DType dtype, Device device) {
    return std::pair{Tensor::full({channels}, 0.25, dtype, device), Tensor::full({channels}, 1.5, dtype, device)};
  };
  OpRow row = batch_norm_row(std::move(name), std::move(x), 1e-5, std::move(large));
  row.op = [=](std::span<const Variable> v) {
    const Variable& like = v[0].defined() ? v[0] : v[1];
    const auto [mean, variance] = statistics(v[0].rank() > 1 ? v[0].size(1) : 1, like.dtype(), like.device());
    return ops::batch_norm(v[0], v[1], v[2], mean, variance);
  };
  row.reference = [=](std::span<const NaiveArray> v) {
    const auto [mean, variance] = statistics(v[0].size(1), DType::kFloat64, Device::cpu());
    return naive_batch_norm(std::vector{v[0], v[1], v[2], to_naive(mean), to_naive(variance)}, 1e-5);
  };
  return row;
}

void add_batch_norm_rows(std::vector<OpRow>& rows) {
  const std::vector<Input> tall = batch_norm_inputs(floating({2050, 130})),
                           images = batch_norm_inputs(floating({10, 20, 33, 15}));
  rows.push_back(batch_norm_row("batch_norm", floating({6, 4}), 1e-5, tall));
  rows.push_back(batch_norm_row("batch_norm_of_tokens", floating({3, 4, 5})));
  rows.push_back(batch_norm_row("batch_norm_of_images", floating({2, 3, 2, 4}), 1e-5, images));
  rows.push_back(batch_norm_row("batch_norm_of_one_sample", floating({1, 3, 6})));
  rows.push_back(batch_norm_row("batch_norm_one_channel", floating({7, 1})));
  rows.push_back(batch_norm_row("batch_norm_large_epsilon", floating({5, 3}), 0.5));
  rows.push_back(frozen_batch_norm_row("batch_norm_frozen", floating({6, 4}), tall));
  rows.push_back(frozen_batch_norm_row("batch_norm_frozen_of_images", floating({2, 3, 2, 4}), images));
  rows.push_back(frozen_batch_norm_row("batch_norm_frozen_of_one_value", floating({1, 3})));
  rows.push_back(frozen_batch_norm_row("batch_norm_frozen_no_rows", floating({0, 3})));

  OpRow constant = batch_norm_row("batch_norm_constant_channel", floating({3, 2}, {3, 1, 3, 2, 3, 4}));
  constant.differentiable = false;  // it is, but too steep at variance 0 for a central difference
  rows.push_back(std::move(constant));

  // The mean is known to half a unit in the last place, 3e-5 at 1000, where the spread is 0.6.
  OpRow shifted = batch_norm_row("batch_norm_far_from_zero", floating({16, 3}, 999, 1001));
  shifted.float32_tolerance = 2e-4;
  shifted.float32_gradient_tolerance = 1e-3;
  rows.push_back(std::move(shifted));
}

}  // namespace

std::vector<OpRow> row_wise_rows() {
  std::vector<OpRow> rows;
  add_softmax_rows(rows);
  add_cross_entropy_rows(rows);
  add_layer_norm_rows(rows);
  add_rms_norm_rows(rows);
  add_l2_normalize_rows(rows);
  add_batch_norm_rows(rows);
  return rows;
}

}  // namespace tapecache::testing
