#include <algorithm>
#include <cmath>
#include <utility>

#include "op_table.h"
#include "tapecache/ops/reduce.h"

namespace tapecache::testing {

namespace {

using Reduce = Variable (*)(const Variable&, int);
using Line = std::function<double(const std::vector<double>&)>;

double naive_mean(const std::vector<double>& x) { return naive_sum(x) / static_cast<double>(x.size()); }
double naive_norm(const std::vector<double>& x) {
  double length = 0;
  for (const double v : x) length = std::hypot(length, v);
  return length;
}
double naive_max(const std::vector<double>& x) { return *std::max_element(x.begin(), x.end()); }

OpRow reduce_row(std::string name, Reduce op, const Line& f, int axis, Input input, std::vector<Input> large = {}) {
  const double flops = large.empty() ? 0 : static_cast<double>(large[0].shape.numel());
  return {.name = std::move(name),
          .inputs = {std::move(input)},
          .op = [=](std::span<const Variable> x) { return op(x[0], axis); },
          .reference =
              [=](std::span<const NaiveArray> x) { return naive_reduce(x[0], x[0].shape.normalize_axis(axis), f); },
          .large = std::move(large),
          .flops = flops};
}

OpRow full_row(std::string name, Variable (*op)(const Variable&), const Line& f, Input input,
               std::vector<Input> large = {}) {
  const double flops = large.empty() ? 0 : static_cast<double>(large[0].shape.numel());
  return {.name = std::move(name),
          .inputs = {std::move(input)},
          .op = [op](std::span<const Variable> x) { return op(x[0]); },
          .reference =
              [f](std::span<const NaiveArray> x) {
                NaiveArray y{Shape{}};
                y[0] = f(x[0].values);
                return y;
              },
          .large = std::move(large),
          .flops = flops};
}

}  // namespace

std::vector<OpRow> reduce_rows() {
  struct Case {
    std::string name;
    Reduce op;
    Line f;
  };
  const std::vector<Case> cases{
      {"sum", ops::sum, naive_sum},    {"mean", ops::mean, naive_mean},
      {"max", ops::max, naive_max},    {"logsumexp", ops::logsumexp, naive_logsumexp},
      {"norm", ops::norm, naive_norm},
  };
  std::vector<OpRow> rows;
  for (const Case& c : cases) {
    rows.push_back(reduce_row(c.name + "_axis_0", c.op, c.f, 0, floating({3, 4, 5}), {floating({1027, 520})}));
    rows.push_back(reduce_row(c.name + "_axis_1", c.op, c.f, 1, floating({3, 4, 5}), {floating({65, 77, 100})}));
    rows.push_back(reduce_row(c.name + "_axis_2", c.op, c.f, 2, floating({3, 4, 5})));
    rows.push_back(reduce_row(c.name + "_last_axis", c.op, c.f, -1, floating({3, 4, 5}), {floating({520, 1027})}));
    rows.push_back(reduce_row(c.name + "_second_axis_from_the_end", c.op, c.f, -2, floating({3, 4, 5})));
    rows.push_back(reduce_row(c.name + "_of_vector", c.op, c.f, 0, floating({7})));
    rows.push_back(reduce_row(c.name + "_single_element_axis", c.op, c.f, 1, floating({3, 1, 2})));
    rows.push_back(reduce_row(c.name + "_no_rows", c.op, c.f, 1, floating({0, 3})));
  }
  for (OpRow& row : rows) {
    if (row.name.starts_with("logsumexp_")) row.flops *= 24;
  }
  // Partial sums of 512 numbers reach 60, where half a unit in the last place is 2e-6, and such errors add up.
  for (OpRow& row : rows) {
    if (row.name.starts_with("sum_")) row.float32_tolerance = 1e-4;
  }
  rows.push_back(reduce_row("sum_empty_axis", ops::sum, naive_sum, 1, floating({3, 0, 2})));
  rows.push_back(reduce_row("logsumexp_far_out", ops::logsumexp, naive_logsumexp, 1,
                            floating({3, 3}, {1000, 999.5, -1000, -1000, -1000.5, -1001, -40, 0, 40})));

  rows.push_back(reduce_row("norm_empty_axis", ops::norm, naive_norm, 1, floating({3, 0, 2})));
  OpRow zero = reduce_row("norm_of_zeros", ops::norm, naive_norm, 1, floating({3, 3}, {1, 2, 3, 0, 0, 0, -1, 0, 2}));
  zero.differentiable = false;
  rows.push_back(std::move(zero));

  const auto distance_row = [&](const std::string& name, const Shape& a, const Shape& b,
                                std::vector<Input> large = {}) {
    rows.push_back({.name = name,
                    .inputs = {floating(a), floating(b)},
                    .op = [](std::span<const Variable> x) { return ops::distance(x[0], x[1]); },
                    .reference =
                        [](std::span<const NaiveArray> x) {
                          const NaiveArray difference = naive_binary(x[0], x[1], std::minus<>());
                          return naive_reduce(difference, difference.shape.rank() - 1, naive_norm);
                        },
                    .large = large,
                    .flops = large.empty() ? 0 : 3.0 * static_cast<double>(large[0].shape.numel())});
  };
  distance_row("distance", {4, 5}, {4, 5}, {floating({520, 1027}), floating({520, 1027})});
  distance_row("distance_of_all_pairs", {3, 1, 4}, {2, 4});

  rows.push_back(full_row("sum_all", ops::sum, naive_sum, floating({3, 4, 5}), {floating({1025, 1024})}));
  rows.push_back(full_row("mean_all", ops::mean, naive_mean, floating({3, 4, 5}), {floating({1025, 1024})}));
  rows.push_back(full_row("sum_all_of_scalar", ops::sum, naive_sum, floating({})));
  rows.push_back(full_row("mean_all_of_scalar", ops::mean, naive_mean, floating({})));
  rows.push_back(full_row("sum_all_of_nothing", ops::sum, naive_sum, floating({0, 3})));
  return rows;
}

}  // namespace tapecache::testing
