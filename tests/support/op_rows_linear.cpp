#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>
#include <tuple>
#include <utility>

#include "op_table.h"
#include "tapecache/ops/linear.h"

namespace tapecache::testing {

namespace {

/// x [..., in] times the transpose of weight [out, in], plus bias [out] and a residual where they are given.
NaiveArray naive_linear(const NaiveArray& x, const NaiveArray& weight, const NaiveArray* bias = nullptr,
                        const NaiveArray* residual = nullptr) {
  const std::int64_t in = weight.size(1), out = weight.size(0), rows = x.shape.product(0, x.shape.rank() - 1);
  NaiveArray y(x.shape.with(-1, out));
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t j = 0; j < out; ++j) {
      double total = bias ? (*bias)[j] : 0;
      for (std::int64_t k = 0; k < in; ++k) total += x[i * in + k] * weight[j * in + k];
      y[i * out + j] = total + (residual ? (*residual)[i * out + j] : 0);
    }
  }
  return y;
}

/// Results of linear maps of one x, side by side.
NaiveArray side_by_side(std::span<const NaiveArray> parts) {
  std::int64_t total = 0;
  for (const NaiveArray& part : parts) total += part.size(-1);
  NaiveArray y(parts[0].shape.with(-1, total));
  const std::int64_t rows = y.shape.product(0, y.shape.rank() - 1);
  std::int64_t first = 0;
  for (const NaiveArray& part : parts) {
    const std::int64_t width = part.size(-1);
    for (std::int64_t i = 0; i < rows; ++i) {
      for (std::int64_t j = 0; j < width; ++j) y[i * total + first + j] = part[i * width + j];
    }
    first += width;
  }
  return y;
}

double flops_of(std::span<const Input> large) {
  return large.empty() ? 0 : 2.0 * static_cast<double>(large[0].shape.numel() * large[1].shape[0]);
}

void add_linear_row(std::vector<OpRow>& rows, const std::string& name, std::vector<Input> inputs,
                    std::vector<Input> large = {}) {
  const double flops = flops_of(large);
  rows.push_back(
      {.name = name,
       .inputs = std::move(inputs),
       .op =
           [](std::span<const Variable> x) {
             return ops::linear(x[0], x[1], x.size() >= 3 ? x[2] : Variable(), x.size() == 4 ? x[3] : Variable());
           },
       .reference =
           [](std::span<const NaiveArray> x) {
             return naive_linear(x[0], x[1], x.size() >= 3 ? &x[2] : nullptr, x.size() == 4 ? &x[3] : nullptr);
           },
       .large = std::move(large),
       .flops = flops});
}

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

std::vector<std::tuple<std::string, ops::Activation, double (*)(double)>> activations() {
  return {
      {"quick_gelu", ops::Activation::kQuickGelu, [](double x) { return x * sigmoid(1.702 * x); }},
      {"gelu", ops::Activation::kGelu, [](double x) { return 0.5 * x * std::erfc(-x / std::numbers::sqrt2); }},
      {"gelu_tanh", ops::Activation::kGeluTanh,
       [](double x) {
         return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
       }},
      {"silu", ops::Activation::kSilu, [](double x) { return x * sigmoid(x); }},
      {"relu", ops::Activation::kRelu, [](double x) { return std::max(x, 0.0); }},
  };
}

void add_activated_linear_rows(std::vector<OpRow>& rows) {
  using ops::Activation;
  for (const auto& [name, activation, f] : activations()) {
    OpRow row{.name = "activated_linear_" + name,
              .inputs = {floating({2, 3, 4}), floating({5, 4}), floating({5})},
              .op =
                  [activation = activation](std::span<const Variable> x) {
                    return ops::activated_linear(x[0], activation, x[1], x[2], x.size() == 4 ? x[3] : Variable());
                  },
              .reference =
                  [f = f](std::span<const NaiveArray> x) {
                    return naive_linear(naive_unary(x[0], f), x[1], &x[2], x.size() == 4 ? &x[3] : nullptr);
                  }};
    if (activation == Activation::kGelu) {
      row.large = {floating({4160, 256}), floating({64, 256}), floating({64})};
      row.flops = flops_of(row.large);
    }
    OpRow with_residual = row;
    with_residual.name += "_residual";
    with_residual.inputs.push_back(floating({2, 3, 5}));
    if (!row.large.empty()) with_residual.large.push_back(floating({4160, 64}));
    rows.push_back(std::move(row));
    rows.push_back(std::move(with_residual));
  }
  rows.push_back(
      {.name = "activated_linear_without_bias",
       .inputs = {floating({4, 3}), floating({2, 3})},
       .op = [](std::span<const Variable> x) { return ops::activated_linear(x[0], Activation::kSilu, x[1]); },
       .reference =
           [](std::span<const NaiveArray> x) {
             return naive_linear(naive_unary(x[0], [](double v) { return v * sigmoid(v); }), x[1]);
           }});
}

void add_gated_rows(std::vector<OpRow>& rows) {
  const auto row = [&](const std::string& name, ops::Activation activation, double (*f)(double), Input x,
                       std::vector<Input> large = {}) {
    rows.push_back({.name = name,
                    .inputs = {std::move(x)},
                    .op = [activation](std::span<const Variable> v) { return ops::gated(activation, v[0]); },
                    .reference =
                        [f](std::span<const NaiveArray> v) {
                          const std::int64_t width = v[0].size(-1) / 2;
                          NaiveArray y(v[0].shape.with(-1, width));
                          for (std::int64_t i = 0; i < y.shape.numel(); ++i) {
                            const std::int64_t at = i / width * 2 * width + i % width;
                            y[i] = f(v[0][at]) * v[0][at + width];
                          }
                          return y;
                        },
                    .large = std::move(large)});
  };
  for (const auto& [name, activation, f] : activations()) row("gated_" + name, activation, f, floating({2, 3, 10}));
  const auto silu = [](double v) { return v * sigmoid(v); };
  row("gated_vector", ops::Activation::kSilu, silu, floating({6}), {floating({515, 2 * 384})});
  row("gated_no_rows", ops::Activation::kSilu, silu, floating({0, 6}));
}

/// x is the bias too: its gradient comes from both.
void add_rows_of_x_as_bias(std::vector<OpRow>& rows) {
  rows.push_back({.name = "linear_of_vector_as_bias",
                  .inputs = {floating({4}), floating({4, 4})},
                  .op = [](std::span<const Variable> x) { return ops::linear(x[0], x[1], x[0]); },
                  .reference = [](std::span<const NaiveArray> x) { return naive_linear(x[0], x[1], &x[0]); }});
  rows.push_back(
      {.name = "activated_linear_of_vector_as_bias",
       .inputs = {floating({4}), floating({4, 4})},
       .op =
           [](std::span<const Variable> x) { return ops::activated_linear(x[0], ops::Activation::kSilu, x[1], x[0]); },
       .reference =
           [](std::span<const NaiveArray> x) {
             return naive_linear(naive_unary(x[0], [](double v) { return v * sigmoid(v); }), x[1], &x[0]);
           }});
}

/// multi_linear of x [rows, in] with weights of these numbers of rows, or normalized_linear, whose γ and β follow x.
OpRow joined_row(std::string name, const Shape& x, std::vector<std::int64_t> outs, bool with_biases, bool normalized) {
  const std::int64_t in = x[-1];
  const std::size_t first = normalized ? 3 : 1, count = outs.size();
  std::vector<Input> inputs{floating(x)};
  if (normalized) inputs.insert(inputs.end(), {floating({in}, 0.5, 1.5), floating({in})});
  for (const std::int64_t out : outs) inputs.push_back(floating({out, in}));
  for (const std::int64_t out : outs) {
    if (with_biases) inputs.push_back(floating({out}));
  }
  return {.name = std::move(name),
          .inputs = std::move(inputs),
          .op =
              [=](std::span<const Variable> v) {
                const auto weights = v.subspan(first, count), biases = v.subspan(first + count);
                return normalized ? ops::normalized_linear(v[0], {v[1], v[2], 1e-5}, weights, biases).y
                                  : ops::multi_linear(v[0], weights, biases);
              },
          .reference =
              [=](std::span<const NaiveArray> v) {
                const NaiveArray h = normalized ? naive_layer_norm(v[0], v[1], v[2], 1e-5) : v[0];
                std::vector<NaiveArray> parts;
                for (std::size_t i = 0; i < count; ++i) {
                  parts.push_back(naive_linear(h, v[first + i], with_biases ? &v[first + count + i] : nullptr));
                }
                return side_by_side(parts);
              }};
}

/// Both results of normalized_linear, as a post-norm block uses them.
OpRow norm_used_twice_row() {
  OpRow row = joined_row("normalized_linear_and_its_norm", {2, 3, 4}, {3, 1}, true, true);
  row.large = joined_row("", {515, 96}, {64, 32}, true, true).inputs;
  row.flops = 2.0 * 515 * 96 * (64 + 32);
  row.op = [](std::span<const Variable> v) {
    const auto [y, normalized] = ops::normalized_linear(v[0], {v[1], v[2], 1e-5}, v.subspan(3, 2), v.subspan(5, 2));
    return ops::add(y, normalized);
  };
  row.reference = [products = row.reference](std::span<const NaiveArray> v) {
    return naive_binary(products(v), naive_layer_norm(v[0], v[1], v[2], 1e-5), std::plus());
  };
  return row;
}

void add_multi_linear_rows(std::vector<OpRow>& rows) {
  for (const bool normalized : {false, true}) {
    const std::string name = normalized ? "normalized_linear" : "multi_linear";
    OpRow row = joined_row(name, {2, 3, 4}, {5, 3, 2}, true, normalized);
    row.large = joined_row("", {515, 256}, {128, 64, 33}, true, normalized).inputs;
    // Normalised values are three times as large as the other inputs' and reach 5: outputs should not.
    for (Input& input : row.large) {
      if (normalized && input.shape.rank() == 2 && input.shape[0] != 515) input.low = -(input.high = 0.25);
    }
    row.flops = 2.0 * 515 * 256 * (128 + 64 + 33);
    rows.push_back(std::move(row));
    rows.push_back(joined_row(name + "_without_biases", {5, 4}, {3, 3}, false, normalized));
    rows.push_back(joined_row(name + "_of_one_weight", {5, 4}, {3}, true, normalized));
    rows.push_back(joined_row(name + "_of_vector", {4}, {3, 2}, true, normalized));
    rows.push_back(joined_row(name + "_no_rows", {0, 4}, {3, 2}, true, normalized));
  }

  rows.push_back(norm_used_twice_row());

  // One of the biases is left out.
  OpRow row = joined_row("multi_linear_without_a_bias", {5, 4}, {3, 2}, false, false);
  row.inputs.push_back(floating({2}));
  row.op = [](std::span<const Variable> v) {
    const Variable biases[] = {Variable(), v[3]};
    return ops::multi_linear(v[0], v.subspan(1, 2), biases);
  };
  row.reference = [](std::span<const NaiveArray> v) {
    const NaiveArray parts[] = {naive_linear(v[0], v[1]), naive_linear(v[0], v[2], &v[3])};
    return side_by_side(parts);
  };
  rows.push_back(std::move(row));
}

}  // namespace

std::vector<OpRow> linear_rows() {
  std::vector<OpRow> rows;
  add_linear_row(rows, "linear", {floating({5, 4}), floating({3, 4}), floating({3})},
                 {floating({515, 256}), floating({384, 256}), floating({384})});
  add_linear_row(rows, "linear_without_bias", {floating({5, 4}), floating({3, 4})},
                 {floating({515, 256}), floating({384, 256})});
  add_linear_row(rows, "linear_of_tokens", {floating({2, 3, 4}), floating({5, 4}), floating({5})},
                 {floating({8, 77, 128}), floating({512, 128}), floating({512})});
  add_linear_row(rows, "linear_of_tokens_without_bias", {floating({2, 3, 4}), floating({5, 4})});
  add_linear_row(rows, "linear_of_vector", {floating({4}), floating({3, 4}), floating({3})});
  add_linear_row(rows, "linear_no_rows", {floating({0, 4}), floating({3, 4}), floating({3})});

  add_linear_row(rows, "linear_residual", {floating({2, 3, 4}), floating({5, 4}), floating({5}), floating({2, 3, 5})},
                 {floating({515, 256}), floating({384, 256}), floating({384}), floating({515, 384})});
  add_linear_row(rows, "linear_residual_nothing_to_sum",
                 {floating({3, 0}), floating({5, 0}), floating({5}), floating({3, 5})});

  add_activated_linear_rows(rows);
  add_gated_rows(rows);
  add_rows_of_x_as_bias(rows);
  add_multi_linear_rows(rows);
  return rows;
}

}  // namespace tapecache::testing
