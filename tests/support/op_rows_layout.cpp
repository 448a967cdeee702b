#include <utility>

#include "op_table.h"
#include "philox_reference.h"
#include "tapecache/core/forward_context.h"
#include "tapecache/core/random.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"

namespace tapecache::testing {

namespace {

std::vector<Variable> all_of(std::span<const Variable> x) { return {x.begin(), x.end()}; }

NaiveArray naive_concat(std::span<const NaiveArray> parts, int axis) {
  std::int64_t total = 0;
  for (const NaiveArray& part : parts) total += part.shape[axis];
  NaiveArray y(parts[0].shape.with(axis, total));
  const auto at_axis = static_cast<std::size_t>(parts[0].shape.normalize_axis(axis));
  std::int64_t begin = 0;
  for (const NaiveArray& part : parts) {
    for_each_index(part.shape, [&](const Index& from) {
      Index to = from;
      to[at_axis] += begin;
      y[flat(y.shape, to)] = part[flat(part.shape, from)];
    });
    begin += part.shape[axis];
  }
  return y;
}

void add_concat_rows(std::vector<OpRow>& rows) {
  const auto row = [&](const std::string& name, int axis, std::vector<Input> inputs, std::vector<Input> large = {}) {
    rows.push_back({.name = name,
                    .inputs = std::move(inputs),
                    .op = [axis](std::span<const Variable> x) { return ops::concat(all_of(x), axis); },
                    .reference = [axis](std::span<const NaiveArray> x) { return naive_concat(x, axis); },
                    .large = std::move(large)});
  };
  row("concat_axis_0", 0, {floating({2, 3, 2}), floating({1, 3, 2}), floating({3, 3, 2})},
      {floating({513, 300}), floating({600, 300}), floating({64, 300})});
  row("concat_axis_1", 1, {floating({2, 3, 2}), floating({2, 1, 2}), floating({2, 2, 2})},
      {floating({64, 50, 130}), floating({64, 1, 130}), floating({64, 77, 130})});
  row("concat_last_axis", -1, {floating({2, 3, 2}), floating({2, 3, 1}), floating({2, 3, 4})});
  row("concat_of_vectors", 0, {floating({3}), floating({2})});
  row("concat_single_part", 1, {floating({2, 3})});
  row("concat_with_empty_part", 1, {floating({2, 3}), floating({2, 0}), floating({2, 2})});
}

void add_slice_row(std::vector<OpRow>& rows, const std::string& name, Input input, int axis, std::int64_t begin,
                   std::int64_t end, std::vector<Input> large = {}) {
  rows.push_back({.name = name,
                  .inputs = {std::move(input)},
                  .op = [=](std::span<const Variable> x) { return ops::slice(x[0], axis, begin, end); },
                  .reference =
                      [=](std::span<const NaiveArray> x) {
                        NaiveArray y(x[0].shape.with(axis, end - begin));
                        const auto at_axis = static_cast<std::size_t>(y.shape.normalize_axis(axis));
                        for_each_index(y.shape, [&](const Index& to) {
                          Index from = to;
                          from[at_axis] += begin;
                          y[flat(y.shape, to)] = x[0][flat(x[0].shape, from)];
                        });
                        return y;
                      },
                  .large = std::move(large),
                  .reads_all = false});
}

void add_transpose_row(std::vector<OpRow>& rows, const std::string& name, Input input, int a, int b,
                       std::vector<Input> large = {}) {
  rows.push_back({.name = name,
                  .inputs = {std::move(input)},
                  .op = [=](std::span<const Variable> x) { return ops::transpose(x[0], a, b); },
                  .reference =
                      [=](std::span<const NaiveArray> x) {
                        const Shape& shape = x[0].shape;
                        NaiveArray y(shape.with(a, shape[b]).with(b, shape[a]));
                        for_each_index(shape, [&](const Index& from) {
                          Index to = from;
                          std::swap(to[static_cast<std::size_t>(shape.normalize_axis(a))],
                                    to[static_cast<std::size_t>(shape.normalize_axis(b))]);
                          y[flat(y.shape, to)] = x[0][flat(shape, from)];
                        });
                        return y;
                      },
                  .large = std::move(large)});
}

void add_reshape_row(std::vector<OpRow>& rows, const std::string& name, const Shape& from, const Shape& to) {
  rows.push_back({.name = name,
                  .inputs = {floating(from)},
                  .op = [to](std::span<const Variable> x) { return ops::reshape(x[0], to); },
                  .reference =
                      [to](std::span<const NaiveArray> x) {
                        NaiveArray y = x[0];
                        y.shape = to;
                        return y;
                      }});
}

NaiveArray naive_take(const NaiveArray& table, const NaiveArray& index) {
  const std::int64_t width = table.shape.product(1, table.shape.rank());
  std::vector<std::int64_t> sizes(index.shape.begin(), index.shape.end());
  sizes.insert(sizes.end(), table.shape.begin() + 1, table.shape.end());
  NaiveArray y{Shape(std::span<const std::int64_t>(sizes))};
  for (std::int64_t i = 0; i < y.shape.numel(); ++i) {
    y[i] = table[static_cast<std::int64_t>(index[i / width]) * width + i % width];
  }
  return y;
}

void add_gather_rows(std::vector<OpRow>& rows) {
  const auto row = [&](const std::string& name, Variable (*op)(const Variable&, const Tensor&),
                       std::vector<Input> inputs, std::vector<Input> large = {}) {
    rows.push_back({.name = name,
                    .inputs = std::move(inputs),
                    .op = [op](std::span<const Variable> x) { return op(x[0], x[1].value()); },
                    .reference = [](std::span<const NaiveArray> x) { return naive_take(x[0], x[1]); },
                    .large = std::move(large),
                    .reads_all = false});
  };
  row("embedding", ops::embedding, {floating({6, 3}), indices({2, 4}, {0, 3, 3, 5, 3, 1, 0, 3})},
      {floating({1000, 260}), indices({32, 77}, 1000)});
  row("embedding_int32_ids", ops::embedding, {floating({6, 3}), indices({5}, {4, 4, 0, 5, 4}, DType::kInt32)});
  row("embedding_of_one_id", ops::embedding, {floating({4, 3}), indices({}, std::vector<double>{2})});
  row("embedding_no_ids", ops::embedding, {floating({4, 3}), indices({2, 0}, 4)});
  row("gather_rows", ops::gather_rows, {floating({5, 3}), indices({4}, {4, 1, 1, 0})},
      {floating({515, 400}), indices({2000}, 515)});
  row("gather_rows_of_tokens", ops::gather_rows, {floating({4, 2, 3}), indices({5}, {3, 0, 3, 2, 3}, DType::kInt32)});
  row("gather_rows_of_vector", ops::gather_rows, {floating({5}), indices({3}, {2, 2, 4})});
  row("gather_rows_none", ops::gather_rows, {floating({3, 2}), indices({0}, 3)});
}

struct Draw {
  double probability = 0.25;
  std::int64_t first_sample = 0, samples = 0;
  std::uint32_t call = 0;
};

constexpr std::uint64_t kSeed = 0x0123456789abcdef;
constexpr std::uint32_t kStep = 77;

/// Dropout, or drop path, where all elements of a sample are kept or dropped by the draw of the first.
NaiveArray naive_drop(const NaiveArray& x, const Draw& draw, bool whole_samples) {
  NaiveArray y = x;
  const std::int64_t samples = draw.samples > 0 ? draw.samples : x.shape[0];
  for (std::int64_t i = 0; i < x.shape.numel(); ++i) {
    const std::int64_t per_sample = x.shape.numel() / samples, element = whole_samples ? 0 : i % per_sample;
    const PhiloxReference philox{{static_cast<std::uint32_t>(element / 4),
                                  static_cast<std::uint32_t>(draw.first_sample + i / per_sample), draw.call, kStep},
                                 {0x89abcdef, 0x01234567}};
    const double uniform = philox.word(static_cast<int>(element % 4)) / 256 / 16777216.0;
    y[i] = uniform < draw.probability ? 0 : x[i] / (1 - draw.probability);
  }
  return y;
}

void add_drop_rows(std::vector<OpRow>& rows, const std::string& suffix, Input input, const Draw& draw,
                   std::vector<Input> large = {}) {
  const double elements = large.empty() ? 0 : static_cast<double>(large[0].shape.numel());
  for (const bool whole_samples : {false, true}) {
    rows.push_back({.name = (whole_samples ? "drop_path" : "dropout") + suffix,
                    .inputs = {input},
                    .op =
                        [draw, f = whole_samples ? ops::drop_path : ops::dropout](std::span<const Variable> x) {
                          const ScopedValue random(random_state());
                          begin_random_step(kSeed, kStep);
                          random_state().key.call = draw.call;
                          random_state().first_sample = draw.first_sample;
                          random_state().samples = draw.samples;
                          return f(x[0], draw.probability);
                        },
                    .reference = [=](std::span<const NaiveArray> x) { return naive_drop(x[0], draw, whole_samples); },
                    .large = large,
                    // Ten rounds of Philox for four elements, with products of 64 bits.
                    .flops = (whole_samples ? 1 : 60) * elements});
  }
}

}  // namespace

std::vector<OpRow> layout_rows() {
  std::vector<OpRow> rows;
  add_concat_rows(rows);

  add_slice_row(rows, "slice_axis_0", floating({5, 3}), 0, 1, 4, {floating({1030, 515})});
  add_slice_row(rows, "slice_axis_1", floating({2, 5, 3}), 1, 2, 4, {floating({64, 77, 130})});
  add_slice_row(rows, "slice_last_axis", floating({2, 3, 4}), -1, 0, 3, {floating({1030, 515})});
  add_slice_row(rows, "slice_of_vector", floating({6}), 0, 2, 5);
  add_slice_row(rows, "slice_whole_axis", floating({2, 3}), 1, 0, 3);
  add_slice_row(rows, "slice_nothing_axis_0", floating({4, 3}), 0, 2, 2);
  add_slice_row(rows, "slice_nothing_axis_1", floating({4, 3}), 1, 3, 3);

  add_transpose_row(rows, "transpose_matrix", floating({3, 5}), 0, 1, {floating({1030, 515})});
  add_transpose_row(rows, "transpose_0_2", floating({2, 3, 4}), 0, 2);
  add_transpose_row(rows, "transpose_1_2", floating({2, 3, 4}), 1, 2);
  add_transpose_row(rows, "transpose_0_1", floating({2, 3, 4}), 0, 1);
  add_transpose_row(rows, "transpose_2_0", floating({2, 3, 4}), 2, 0);
  add_transpose_row(rows, "transpose_from_the_end", floating({2, 3, 4}), -1, -2);
  add_transpose_row(rows, "transpose_1_3", floating({2, 3, 2, 4}), 1, 3);
  add_transpose_row(rows, "transpose_heads", floating({2, 3, 4, 2}), 1, 2, {floating({16, 77, 8, 64})});
  add_transpose_row(rows, "transpose_0_5", floating({2, 1, 3, 1, 2, 4}), 0, 5);
  add_transpose_row(rows, "transpose_axis_with_itself", floating({2, 3}), 1, 1);
  add_transpose_row(rows, "transpose_nothing", floating({2, 0, 3}), 0, 1);

  add_reshape_row(rows, "reshape", {2, 3, 4}, {6, 4});
  add_reshape_row(rows, "reshape_to_scalar", {1, 1}, {});
  add_reshape_row(rows, "reshape_same", {2, 3}, {2, 3});

  add_gather_rows(rows);

  add_drop_rows(rows, "", floating({4, 10}), {}, {floating({1024, 1030})});
  add_drop_rows(rows, "_half", floating({3, 2, 5}), {.probability = 0.5, .call = 3});
  add_drop_rows(rows, "_zero", floating({3, 4}), {.probability = 0});
  add_drop_rows(rows, "_most", floating({3, 40}), {.probability = 0.9375});
  add_drop_rows(rows, "_later_samples", floating({4, 7}), {.first_sample = 1000});
  add_drop_rows(rows, "_rows_of_samples", floating({6, 7}), {.first_sample = 5, .samples = 2});
  add_drop_rows(rows, "_of_vector", floating({9}), {.probability = 0.5});
  add_drop_rows(rows, "_no_rows", floating({0, 4}), {});
  return rows;
}

}  // namespace tapecache::testing
