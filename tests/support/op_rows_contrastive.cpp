#include <algorithm>
#include <cmath>
#include <limits>

#include "op_table.h"
#include "tapecache/ops/contrastive.h"
#include "tapecache/ops/maxsim.h"

namespace tapecache::testing {

namespace {

using kernels::ContrastiveOp;
using Span = std::span<const NaiveArray>;

double log_one_plus_exp(double z) { return std::max(z, 0.0) + std::log1p(std::exp(-std::abs(z))); }

/// The loss of given logits [rows, columns].
double naive_loss(ContrastiveOp op, const NaiveArray& z) {
  const std::int64_t n = z.size(0), m = z.size(1), step = m / n;
  double loss = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    std::vector<double> row, column;
    for (std::int64_t j = 0; j < m; ++j) {
      row.push_back(z[i * m + j]);
      if (op == ContrastiveOp::kSigmoid) loss += log_one_plus_exp(j == i * step ? -z[i * m + j] : z[i * m + j]);
    }
    if (op == ContrastiveOp::kSigmoid) continue;
    const double rows = naive_logsumexp(row) - z[i * m + i * step];
    loss += op == ContrastiveOp::kRows ? rows : 0.5 * rows;
    if (op == ContrastiveOp::kRows) continue;
    for (std::int64_t k = 0; k < n; ++k) column.push_back(z[k * m + i]);
    loss += 0.5 * (naive_logsumexp(column) - z[i * m + i]);
  }
  return loss / static_cast<double>(n);
}

NaiveArray naive_contrastive(ContrastiveOp op, Span x) {
  const std::int64_t n = x[0].size(0), m = x[1].size(0), width = x[0].size(1);
  NaiveArray z(Shape{n, m}, x.size() > 3 ? x[3][0] : 0);
  for_each_index(z.shape, [&](const Index& at) {
    for (std::int64_t k = 0; k < width; ++k) {
      z[flat(z.shape, at)] += x[2][0] * x[0][at[0] * width + k] * x[1][at[1] * width + k];
    }
  });
  return NaiveArray(Shape{}, naive_loss(op, z));
}

NaiveArray naive_maxsim(Span x) {
  const NaiveArray &q = x[0], &d = x[1];
  const std::int64_t n = q.size(0), m = d.size(0), width = q.size(2);
  NaiveArray z(Shape{n, m});
  for_each_index(z.shape, [&](const Index& at) {
    for (std::int64_t t = 0; t < q.size(1); ++t) {
      if (x.size() > 3 && x[3][at[0] * q.size(1) + t] == 0) continue;
      double best = -std::numeric_limits<double>::infinity();
      for (std::int64_t s = 0; s < d.size(1); ++s) {
        if (x.size() > 4 && x[4][at[1] * d.size(1) + s] == 0) continue;
        double similarity = 0;
        for (std::int64_t k = 0; k < width; ++k) {
          similarity += q[(at[0] * q.size(1) + t) * width + k] * d[(at[1] * d.size(1) + s) * width + k];
        }
        best = std::max(best, similarity);
      }
      z[flat(z.shape, at)] += x[2][0] * best;
    }
  });
  return NaiveArray(Shape{}, naive_loss(ContrastiveOp::kRows, z));
}

void add_contrastive_rows(std::vector<OpRow>& rows) {
  const auto row = [&](const std::string& name, ContrastiveOp op, std::vector<Input> inputs,
                       const ops::TileOptions& tile, std::vector<Input> large = {}) {
    const double flops = large.empty() ? 0 : 2.0 * static_cast<double>(large[0].shape.numel() * large[1].shape[0]);
    const auto tile_for = [tile, few = inputs[0].shape[0]](std::int64_t samples) {  // as many tiles of the large inputs
      const auto scaled = [&](std::optional<std::int64_t> side) {
        return side ? std::optional(*side * samples / few) : side;
      };
      return ops::TileOptions{scaled(tile.rows), scaled(tile.columns)};
    };
    rows.push_back({.name = "contrastive_loss_" + name,
                    .inputs = std::move(inputs),
                    .op =
                        [=](std::span<const Variable> x) {
                          return ops::contrastive_loss(op, x[0], x[1], x[2], x.size() > 3 ? x[3] : Variable(),
                                                       tile_for(x[0].rank() > 0 ? x[0].size(0) : 1));
                        },
                    .reference = [=](Span x) { return naive_contrastive(op, x); },
                    .large = std::move(large),
                    .flops = flops});
  };
  const Input a = floating({6, 5}), scale = floating({}, std::vector<double>{2.5}),
              bias = floating({}, std::vector<double>{-1.5}), small_scale = floating({}, std::vector<double>{0.25});
  const std::vector<Input> large{floating({300, 64}), floating({300, 64}), small_scale};
  row("rows", ContrastiveOp::kRows, {a, a, scale}, {}, large);
  row("hard_negatives", ContrastiveOp::kRows, {a, floating({18, 5}), scale}, {4, 7});
  row("both", ContrastiveOp::kRowsAndColumns, {a, a, scale}, {5, 2}, large);
  row("sigmoid", ContrastiveOp::kSigmoid, {a, a, scale, bias}, {1, 3}, {large[0], large[1], small_scale, bias});
  row("one_sample", ContrastiveOp::kRowsAndColumns, {floating({1, 3}), floating({1, 3}), scale}, {});
}

void add_maxsim_rows(std::vector<OpRow>& rows) {
  const auto row = [&](const std::string& name, std::vector<Input> inputs, const ops::TileOptions& tile,
                       std::vector<Input> large = {}) {
    double flops = 0;
    if (!large.empty()) {
      flops = 2.0 * static_cast<double>(large[0].shape.numel() * large[1].shape[0] * large[1].shape[1]);
    }
    rows.push_back({.name = "maxsim_loss" + name,
                    .inputs = std::move(inputs),
                    .op =
                        [=](std::span<const Variable> x) {
                          const auto mask = [&](std::size_t i) { return x.size() > i ? x[i].value() : Tensor(); };
                          return ops::maxsim_loss(x[0], mask(3), x[1], mask(4), x[2], tile);
                        },
                    .reference = naive_maxsim,
                    .large = std::move(large),
                    .flops = flops});
  };
  const Input q = floating({4, 3, 5}), d = floating({8, 4, 5}), scale = floating({}, std::vector<double>{1.5}),
              small_scale = floating({}, std::vector<double>{0.25});
  const Input query_mask = mask({4, 3}, {1, 1, 0, 1, 1, 1, 0, 0, 0, 0, 1, 0});
  const Input document_mask =
      mask({8, 4}, {1, 1, 1, 1, 0, 1, 1, 0, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 1, 1, 0, 0, 1, 0, 1, 0, 1, 1, 1, 1});
  row("", {q, d, scale}, {3, 3}, {floating({24, 8, 32}), floating({24, 12, 32}), small_scale});
  row("_masks", {q, d, scale, query_mask, document_mask}, {});
  row("_query_mask", {q, d, scale, query_mask}, {1, 1});
}

}  // namespace

std::vector<OpRow> contrastive_rows() {
  std::vector<OpRow> rows;
  add_contrastive_rows(rows);
  add_maxsim_rows(rows);
  return rows;
}

}  // namespace tapecache::testing
