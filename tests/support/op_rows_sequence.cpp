#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "op_table.h"
#include "tapecache/ops/attention.h"
#include "tapecache/ops/pooling.h"

namespace tapecache::testing {

namespace {

NaiveArray naive_attention(std::span<const NaiveArray> x, std::int64_t heads, bool causal) {
  const NaiveArray& qkv = x[0];
  const std::int64_t batch = qkv.size(0), tokens = qkv.size(1), width = qkv.size(2) / 3, head_width = width / heads;
  const auto element = [&](std::int64_t b, std::int64_t token, std::int64_t part, std::int64_t h, std::int64_t i) {
    return qkv[((b * tokens + token) * 3 + part) * width + h * head_width + i];
  };
  NaiveArray y(Shape{batch, tokens, width});
  for (std::int64_t b = 0; b < batch; ++b) {
    for (std::int64_t h = 0; h < heads; ++h) {
      for (std::int64_t query = 0; query < tokens; ++query) {
        std::vector<std::int64_t> keys;
        std::vector<double> scores;
        for (std::int64_t key = 0; key < tokens; ++key) {
          if (causal && key > query) continue;
          if (x.size() > 1 && x[1][b * tokens + key] == 0) continue;
          double score = 0;
          for (std::int64_t i = 0; i < head_width; ++i) score += element(b, query, 0, h, i) * element(b, key, 1, h, i);
          keys.push_back(key);
          scores.push_back(score / std::sqrt(static_cast<double>(head_width)));
        }
        if (keys.empty()) continue;
        const double logsumexp = naive_logsumexp(scores);
        for (std::size_t k = 0; k < keys.size(); ++k) {
          const double weight = std::exp(scores[k] - logsumexp);
          for (std::int64_t i = 0; i < head_width; ++i) {
            y[(b * tokens + query) * width + h * head_width + i] += weight * element(b, keys[k], 2, h, i);
          }
        }
      }
    }
  }
  return y;
}

struct AttentionCase {
  std::string name;
  std::int64_t batch, tokens, heads, head_width;
  bool causal = false;
  std::optional<Input> valid = {};
  double range = 1;
};

void add_attention_row(std::vector<OpRow>& rows, const AttentionCase& c, std::vector<Input> large = {}) {
  OpRow row{.name = "attention" + c.name,
            .inputs = {floating({c.batch, c.tokens, 3 * c.heads * c.head_width}, -c.range, c.range)},
            .op =
                [heads = c.heads, causal = c.causal](std::span<const Variable> x) {
                  ops::AttentionOptions options;
                  options.causal = causal;
                  if (x.size() > 1) options.valid = x[1].value();
                  return ops::attention(x[0], heads, options);
                },
            .reference = [heads = c.heads, causal = c.causal](
                             std::span<const NaiveArray> x) { return naive_attention(x, heads, causal); },
            .large = std::move(large)};
  if (c.valid) row.inputs.push_back(*c.valid);
  if (!row.large.empty()) {
    const Shape& shape = row.large[0].shape;
    row.flops = 4.0 / 3 * static_cast<double>(shape.numel() * shape[1]);
  }
  rows.push_back(std::move(row));
}

void add_attention_rows(std::vector<OpRow>& rows) {
  const Input padding = mask({2, 5}, {1, 1, 1, 0, 0, 1, 1, 1, 1, 1});
  const Input holes = mask({2, 5}, {0, 1, 0, 1, 0, 1, 0, 0, 1, 1});
  const Input only_last = mask({2, 5}, {0, 0, 0, 0, 1, 1, 1, 0, 1, 0});
  const Input none = mask({2, 5}, {0, 0, 0, 0, 0, 1, 1, 0, 0, 0});
  add_attention_row(rows, {"", 2, 5, 2, 3}, {floating({16, 77, 3 * 256})});
  add_attention_row(rows, {"_causal", 2, 5, 2, 3, true}, {floating({16, 77, 3 * 256})});
  add_attention_row(rows, {"_padding", 2, 5, 2, 3, false, padding}, {floating({8, 130, 3 * 96}), mask({8, 130})});
  add_attention_row(rows, {"_causal_padding", 2, 5, 2, 3, true, padding}, {floating({8, 130, 3 * 96}), mask({8, 130})});
  // More keys than are in memory together.
  add_attention_row(rows, {"_long", 1, 3, 1, 2}, {floating({2, 600, 3 * 16})});
  add_attention_row(rows, {"_long_causal", 1, 3, 1, 2, true}, {floating({2, 600, 3 * 16})});
  std::vector<double> late(1200, 1);
  std::fill_n(late.begin(), 300, 0);
  add_attention_row(rows, {"_long_padding", 1, 3, 1, 2, false, mask({1, 3}, {0, 1, 1})},
                    {floating({2, 600, 3 * 16}), mask({2, 600}, late)});
  add_attention_row(rows, {"_holes", 2, 5, 2, 3, false, holes});
  add_attention_row(rows, {"_causal_holes", 2, 5, 2, 3, true, holes});
  add_attention_row(rows, {"_causal_only_last_token_valid", 2, 5, 2, 3, true, only_last});
  add_attention_row(rows, {"_nothing_valid", 2, 5, 2, 3, false, none});
  add_attention_row(rows, {"_causal_nothing_valid", 2, 5, 2, 3, true, none});
  add_attention_row(rows, {"_one_head", 2, 4, 1, 5});
  add_attention_row(rows, {"_one_token", 3, 1, 2, 3, true});
  add_attention_row(rows, {"_head_width_one", 1, 4, 3, 1});
  add_attention_row(rows, {"_many_tokens", 1, 37, 1, 2, true});
  add_attention_row(rows, {"_wide_heads", 1, 3, 2, 150, true});
  // Scores reach ±300; a rounding error of theirs is magnified by the exponential.
  AttentionCase sharp{"_sharp", 1, 6, 1, 4, false, {}, 20};
  add_attention_row(rows, sharp);
  rows.back().float32_tolerance = 2e-3;
  rows.back().float32_gradient_tolerance = 1e-2;
  add_attention_row(rows, {"_no_samples", 0, 4, 2, 3});
}

/// Pools the valid tokens of each sample, one feature at a time; 0 where there are none.
NaiveArray naive_pool(std::span<const NaiveArray> x, const std::function<double(const std::vector<double>&)>& f) {
  const std::int64_t tokens = x[0].size(1), width = x[0].size(2);
  NaiveArray y(Shape{x[0].size(0), width});
  for (std::int64_t i = 0; i < y.shape.numel(); ++i) {
    std::vector<double> values;
    for (std::int64_t t = 0; t < tokens; ++t) {
      const std::int64_t token = i / width * tokens + t;
      if (x.size() == 1 || x[1][token] != 0) values.push_back(x[0][token * width + i % width]);
    }
    y[i] = values.empty() ? 0 : f(values);
  }
  return y;
}

double mean_of(const std::vector<double>& v) { return naive_sum(v) / static_cast<double>(v.size()); }
double max_of(const std::vector<double>& v) { return *std::max_element(v.begin(), v.end()); }
double first_of(const std::vector<double>& v) { return v.front(); }
double last_of(const std::vector<double>& v) { return v.back(); }

void add_pooling_rows(std::vector<OpRow>& rows) {
  const auto row = [&](const std::string& name, Variable (*op)(const Variable&, const Tensor&),
                       double (*f)(const std::vector<double>&), std::vector<Input> inputs,
                       std::vector<Input> large = {}) {
    const bool reads_all = f == mean_of || f == max_of;
    const double flops = large.empty() || !reads_all ? 0 : static_cast<double>(large[0].shape.numel());
    rows.push_back(
        {.name = name,
         .inputs = std::move(inputs),
         .op = [op](std::span<const Variable> x) { return op(x[0], x.size() > 1 ? x[1].value() : Tensor()); },
         .reference = [f](std::span<const NaiveArray> x) { return naive_pool(x, f); },
         .large = std::move(large),
         .flops = flops,
         .reads_all = reads_all});
  };
  const Input x = floating({3, 4, 5});
  const Input padding = mask({3, 4}, {1, 1, 1, 1, 1, 0, 0, 0, 1, 1, 0, 0});
  const Input one_dead = mask({3, 4}, {1, 0, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1});
  const Input holes = mask({3, 4}, {0, 1, 0, 1, 0, 0, 1, 0, 1, 1, 1, 1});
  const Input large = floating({64, 77, 130});
  row("mean_pool", ops::mean_pool, mean_of, {x}, {large});
  row("mean_pool_padding", ops::mean_pool, mean_of, {x, padding}, {large, mask({64, 77})});
  row("mean_pool_dead_sample", ops::mean_pool, mean_of, {x, one_dead});
  row("mean_pool_no_samples", ops::mean_pool, mean_of, {floating({0, 4, 2})});
  row("max_pool", ops::max_pool, max_of, {x}, {large});
  row("max_pool_padding", ops::max_pool, max_of, {x, padding}, {large, mask({64, 77})});
  row("max_pool_dead_sample", ops::max_pool, max_of, {x, one_dead});
  row("last_token_pool", ops::last_token_pool, last_of, {x}, {large});
  row("last_token_pool_padding", ops::last_token_pool, last_of, {x, padding});
  row("last_token_pool_holes", ops::last_token_pool, last_of, {x, holes});
  row("cls_pool", ops::cls_pool, first_of, {x}, {large});
  row("cls_pool_padding", ops::cls_pool, first_of, {x, padding});
  row("cls_pool_holes", ops::cls_pool, first_of, {x, holes});

  const auto select = [&](const std::string& name, std::vector<Input> inputs, std::vector<Input> large_inputs = {}) {
    rows.push_back(
        {.name = name,
         .inputs = std::move(inputs),
         .op = [](std::span<const Variable> v) { return ops::select_token(v[0], v[1].value()); },
         .reference =
             [](std::span<const NaiveArray> v) {
               NaiveArray y(Shape{v[0].size(0), v[0].size(2)});
               for_each_index(y.shape, [&](const Index& at) {
                 y[flat(y.shape, at)] = v[0][flat(v[0].shape, {at[0], static_cast<std::int64_t>(v[1][at[0]]), at[1]})];
               });
               return y;
             },
         .large = std::move(large_inputs),
         .reads_all = false});
  };
  select("select_token", {x, indices({3}, {2, 0, 3})}, {large, indices({64}, 77)});
  select("select_token_int32", {x, indices({3}, {1, 1, 3}, DType::kInt32)});
}

}  // namespace

std::vector<OpRow> sequence_rows() {
  std::vector<OpRow> rows;
  add_attention_rows(rows);
  add_pooling_rows(rows);
  return rows;
}

}  // namespace tapecache::testing
