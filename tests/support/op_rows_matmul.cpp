#include <string>
#include <utility>

#include "op_table.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/linear.h"

namespace tapecache::testing {

namespace {

/// One [rows, columns] matrix of an array of them, perhaps stored transposed.
struct Matrix {
  const double* values;
  std::int64_t rows, columns;
  bool transposed;

  double operator()(std::int64_t i, std::int64_t j) const {
    return transposed ? values[j * rows + i] : values[i * columns + j];
  }
};

Matrix matrix_of(const NaiveArray& x, std::int64_t batch, bool transposed) {
  const std::int64_t rows = x.shape[-2], columns = x.shape[-1];
  const std::int64_t first = x.shape.rank() == 2 ? 0 : batch * rows * columns;
  const double* values = x.values.data() + first;
  return transposed ? Matrix{values, columns, rows, true} : Matrix{values, rows, columns, false};
}

NaiveArray naive_matmul(const NaiveArray& a, const NaiveArray& b, bool transpose_a, bool transpose_b) {
  const Shape& batched = a.shape.rank() == 2 ? b.shape : a.shape;
  const std::int64_t m = a.shape[transpose_a ? -1 : -2], n = b.shape[transpose_b ? -2 : -1];
  NaiveArray c(batched.with(-2, m).with(-1, n));
  for (std::int64_t batch = 0; batch < batched.product(0, batched.rank() - 2); ++batch) {
    const Matrix left = matrix_of(a, batch, transpose_a), right = matrix_of(b, batch, transpose_b);
    for (std::int64_t i = 0; i < m; ++i) {
      for (std::int64_t j = 0; j < n; ++j) {
        double total = 0;
        for (std::int64_t k = 0; k < left.columns; ++k) total += left(i, k) * right(k, j);
        c[(batch * m + i) * n + j] = total;
      }
    }
  }
  return c;
}

/// How a, [m, k] by meaning, is stored.
Shape stored(const Shape& shape, bool transposed) {
  return transposed ? shape.with(-2, shape[-1]).with(-1, shape[-2]) : shape;
}

void add_matmul_rows(std::vector<OpRow>& rows, const std::string& name, const Shape& a, const Shape& b,
                     const Shape& large_a = {}, const Shape& large_b = {}) {
  for (const auto& [transpose_a, transpose_b] :
       {std::pair(false, false), std::pair(true, false), std::pair(false, true), std::pair(true, true)}) {
    const ops::MatmulOptions options{transpose_a, transpose_b};
    OpRow row{
        .name = name + (transpose_a ? "_t" : "_n") + (transpose_b ? "t" : "n"),
        .inputs = {floating(stored(a, transpose_a)), floating(stored(b, transpose_b))},
        .op = [options](std::span<const Variable> x) { return ops::matmul(x[0], x[1], options); },
        .reference =
            [options](std::span<const NaiveArray> x) {
              return naive_matmul(x[0], x[1], options.transpose_a, options.transpose_b);
            },
    };
    if (large_a.rank() > 0) {
      row.large = {floating(stored(large_a, transpose_a)), floating(stored(large_b, transpose_b))};
      const Shape& batched = large_a.rank() == 2 ? large_b : large_a;
      row.flops =
          2.0 * static_cast<double>(batched.product(0, batched.rank() - 2) * large_a[-2] * large_a[-1] * large_b[-1]);
    }
    rows.push_back(std::move(row));
  }
}

NaiveArray naive_patch_embedding(std::span<const NaiveArray> x) {
  const NaiveArray &images = x[0], &weight = x[1];
  const std::int64_t out = weight.size(0), channels = weight.size(1), patch = weight.size(2);
  const std::int64_t rows = images.size(2) / patch, columns = images.size(3) / patch;
  NaiveArray y(Shape{images.size(0), rows * columns, out});
  for_each_index(y.shape, [&](const Index& at) {
    const std::int64_t top = at[1] / columns * patch, left = at[1] % columns * patch;
    double total = x.size() == 3 ? x[2][at[2]] : 0;
    for (std::int64_t c = 0; c < channels; ++c) {
      for (std::int64_t i = 0; i < patch; ++i) {
        for (std::int64_t j = 0; j < patch; ++j) {
          total +=
              images[flat(images.shape, {at[0], c, top + i, left + j})] * weight[flat(weight.shape, {at[2], c, i, j})];
        }
      }
    }
    y[flat(y.shape, at)] = total;
  });
  return y;
}

void add_patch_row(std::vector<OpRow>& rows, const std::string& name, std::vector<Input> inputs,
                   std::vector<Input> large = {}) {
  const double flops = large.empty() ? 0 : 2.0 * static_cast<double>(large[0].shape.numel() * large[1].shape[0]);
  rows.push_back({.name = name,
                  .inputs = std::move(inputs),
                  .op =
                      [](std::span<const Variable> x) {
                        return ops::patch_embedding(x[0], x[1], x.size() == 3 ? x[2] : Variable());
                      },
                  .reference = naive_patch_embedding,
                  .large = std::move(large),
                  .flops = flops});
}

}  // namespace

std::vector<OpRow> matmul_rows() {
  std::vector<OpRow> rows;
  add_matmul_rows(rows, "matmul", {3, 4}, {4, 5}, {257, 320}, {320, 386});
  add_matmul_rows(rows, "matmul_batched", {2, 3, 4}, {2, 4, 5}, {48, 77, 64}, {48, 64, 77});
  add_matmul_rows(rows, "matmul_second_shared", {2, 3, 4}, {4, 5}, {9, 77, 128}, {128, 130});
  add_matmul_rows(rows, "matmul_first_shared", {3, 4}, {2, 4, 5}, {77, 65}, {9, 65, 130});
  add_matmul_rows(rows, "matmul_two_batch_axes", {2, 3, 2, 4}, {2, 3, 4, 3});
  add_matmul_rows(rows, "matmul_column", {5, 3}, {3, 1});
  add_matmul_rows(rows, "matmul_nothing_to_sum", {3, 0}, {0, 5});
  add_matmul_rows(rows, "matmul_no_batch", {0, 3, 4}, {4, 5});

  add_patch_row(rows, "patch_embedding", {floating({2, 3, 4, 6}), floating({5, 3, 2, 2}), floating({5})},
                {floating({8, 3, 64, 96}), floating({128, 3, 8, 8}), floating({128})});
  add_patch_row(rows, "patch_embedding_without_bias", {floating({2, 2, 6, 3}), floating({4, 2, 3, 3})});
  add_patch_row(rows, "patch_embedding_single_pixels", {floating({1, 2, 2, 3}), floating({3, 2, 1, 1}), floating({3})});
  return rows;
}

}  // namespace tapecache::testing
