#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "op_table.h"
#include "tapecache/ops/attention.h"
#include "tapecache/ops/reduce.h"

namespace tapecache::testing {

namespace {

struct AttentionCase {
  std::string name;
  std::int64_t batch, tokens, heads, head_width;
  bool causal = false;
  std::optional<Input> valid = {};
  double range = 1;
  std::int64_t kv_heads = 0;
  std::optional<std::int64_t> window = {};

  std::int64_t key_heads() const { return kv_heads > 0 ? kv_heads : heads; }
};

NaiveArray naive_attention(std::span<const NaiveArray> x, const AttentionCase& c) {
  const NaiveArray& qkv = x[0];
  const std::int64_t heads = c.heads, all = heads + 2 * c.key_heads();
  const std::int64_t batch = qkv.size(0), tokens = qkv.size(1), head_width = qkv.size(2) / all;
  const std::int64_t width = heads * head_width;
  const auto element = [&](std::int64_t b, std::int64_t token, std::int64_t part, std::int64_t h, std::int64_t i) {
    const std::int64_t head = part == 0 ? h : heads + (part - 1) * c.key_heads() + h / (heads / c.key_heads());
    return qkv[((b * tokens + token) * all + head) * head_width + i];
  };
  NaiveArray y(Shape{batch, tokens, width});
  for (std::int64_t b = 0; b < batch; ++b) {
    for (std::int64_t h = 0; h < heads; ++h) {
      for (std::int64_t query = 0; query < tokens; ++query) {
        std::vector<std::int64_t> keys;
        std::vector<double> scores;
        for (std::int64_t key = 0; key < tokens; ++key) {
          if (c.causal && key > query) continue;
          if (c.window && std::abs(key - query) > *c.window) continue;
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

void add_attention_row(std::vector<OpRow>& rows, const AttentionCase& c, std::vector<Input> large = {}) {
  OpRow row{.name = "attention" + c.name,
            .inputs = {floating({c.batch, c.tokens, (c.heads + 2 * c.key_heads()) * c.head_width}, -c.range, c.range)},
            .op =
                [c](std::span<const Variable> x) {
                  ops::AttentionOptions options{.causal = c.causal};
                  if (x.size() > 1) options.valid = x[1].value();
                  options.kv_heads = c.kv_heads;
                  options.window = c.window;
                  return ops::attention(x[0], c.heads, options);
                },
            .reference = [c](std::span<const NaiveArray> x) { return naive_attention(x, c); },
            .large = std::move(large)};
  if (c.valid) row.inputs.push_back(*c.valid);
  if (!row.large.empty()) {
    const Shape& shape = row.large[0].shape;
    const double keys = static_cast<double>(c.window ? std::min(shape[1], 2 * *c.window + 1) : shape[1]);
    const double of_queries = static_cast<double>(c.heads) / static_cast<double>(c.heads + 2 * c.key_heads());
    row.flops = 4 * of_queries * static_cast<double>(shape.numel()) * keys;
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
  const auto with = [&](AttentionCase c, std::int64_t kv_heads, std::optional<std::int64_t> window,
                        std::vector<Input> large = {}) {
    c.kv_heads = kv_heads;
    c.window = window;
    add_attention_row(rows, c, std::move(large));
  };
  with({"_window", 2, 9, 2, 3}, 0, 2, {floating({2, 600, 3 * 16})});
  with({"_window_padding", 2, 5, 2, 3, false, padding}, 0, 1);
  with({"_window_holes", 2, 5, 2, 3, false, holes}, 0, 1);
  with({"_window_causal", 2, 9, 2, 3, true}, 0, 3, {floating({2, 600, 3 * 16})});
  with({"_window_of_itself", 2, 5, 2, 3}, 0, 0);
  with({"_window_of_all", 2, 5, 2, 3}, 0, 4);
  with({"_window_of_tiles", 1, 9, 1, 2}, 0, 200, {floating({2, 600, 3 * 16})});
  with({"_grouped", 2, 5, 4, 3}, 2, {}, {floating({4, 200, (4 + 2 * 2) * 16})});
  with({"_grouped_causal_padding", 2, 5, 4, 3, true, padding}, 2, {});
  with({"_grouped_one_key_head", 2, 5, 3, 2, true}, 1, {});
  with({"_grouped_window", 2, 9, 4, 2, false}, 2, 2);
}

/// Tokens' angles differ from each other and from pair to pair.
Tensor angles(std::int64_t tokens, std::int64_t width, DType dtype) {
  std::vector<double> frequencies;
  for (std::int64_t i = 0; i < width / 2; ++i) frequencies.push_back(1 / static_cast<double>(1 + 3 * i));
  return ops::rope_table(frequencies, tokens, dtype);
}

void add_rope_row(std::vector<OpRow>& rows, const std::string& name, std::int64_t heads, std::int64_t width, Input x,
                  std::vector<Input> large = {}) {
  rows.push_back({.name = name,
                  .inputs = {std::move(x)},
                  .op =
                      [=](std::span<const Variable> v) {
                        // A row longer than there are tokens: a table serves texts of any length.
                        const std::int64_t tokens = v[0].defined() && v[0].rank() > 1 ? v[0].size(1) + 1 : 1;
                        const DType dtype =
                            v[0].defined() && v[0].dtype() == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
                        const Tensor table = angles(tokens, width, dtype);
                        return ops::rope(v[0], heads, v[0].defined() ? table.to(v[0].device()) : table);
                      },
                  .reference =
                      [=](std::span<const NaiveArray> v) {
                        NaiveArray y = v[0];
                        const std::int64_t all = v[0].size(2) / width;
                        for (std::int64_t i = 0; i < y.shape.numel(); ++i) {
                          const std::int64_t column = i % width, head = i / width % all;
                          const std::int64_t token = i / width / all % v[0].size(1), pair = column % (width / 2);
                          if (head >= heads) continue;
                          const double frequency = 1 / static_cast<double>(1 + 3 * pair);
                          const double angle = static_cast<float>(token) * static_cast<float>(frequency);
                          const bool first = column < width / 2;
                          const double other = v[0][first ? i + width / 2 : i - width / 2];
                          y[i] = v[0][i] * std::cos(angle) + (first ? -other : other) * std::sin(angle);
                        }
                        return y;
                      },
                  .large = std::move(large)});
}

void add_rope_rows(std::vector<OpRow>& rows) {
  add_rope_row(rows, "rope", 2, 4, floating({2, 5, 4 * 3}));
  add_rope_row(rows, "rope_all_heads", 3, 6, floating({2, 3, 6 * 3}));
  add_rope_row(rows, "rope_width_two", 1, 2, floating({2, 3, 2 * 3}));
  add_rope_row(rows, "rope_no_samples", 1, 4, floating({0, 3, 4}));
  add_rope_row(rows, "rope_heads_of_64", 2, 64, floating({1, 2, 64 * 3}), {floating({8, 77, 64 * 12})});
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
  add_rope_rows(rows);
  add_pooling_rows(rows);
  return rows;
}

}  // namespace tapecache::testing
