#include "tapecache/ops/logit_tile.h"

#include <algorithm>

#include "tapecache/core/op_scope.h"
#include "tapecache/ops/call.h"
#include "tapecache/ops/contrastive.h"
#include "tapecache/ops/gemm.h"

namespace tapecache::ops {

using kernels::Gemm;
using kernels::Mode;

Tensor similarities(const Tensor& a, const Tensor& b) {
  constexpr const char* kOp = "similarities";
  const OpScope scope(kOp);
  Tensor c = Tensor::empty({a.size(0), b.size(0)}, a.dtype(), a.device());
  const Gemm shape{.m = a.size(0), .n = b.size(0), .k = a.size(1), .transpose_b = true};
  detail::gemm(kOp, shape, a, b, {}, {}, c, Mode::kWrite);
  return c;
}

void add_product(const Tensor& a, const Tensor& b, Tensor& sum) {
  constexpr const char* kOp = "add_product";
  const OpScope scope(kOp);
  const Gemm shape{.m = a.size(0), .n = b.size(1), .k = a.size(1)};
  detail::gemm(kOp, shape, a, b, {}, {}, sum, Mode::kAccumulate);
}

void add_transposed_product(const Tensor& a, const Tensor& b, Tensor& sum) {
  constexpr const char* kOp = "add_transposed_product";
  const OpScope scope(kOp);
  const Gemm shape{.m = a.size(1), .n = b.size(1), .k = a.size(0), .transpose_a = true};
  detail::gemm(kOp, shape, a, b, {}, {}, sum, Mode::kAccumulate);
}

Diagonal Diagonal::within(std::int64_t first_row, std::int64_t rows, std::int64_t first_column,
                          std::int64_t columns) const {
  // Element k is at (row + k, column + k · step).
  const auto reached = [this](std::int64_t limit) {  // the first k whose column is not below the limit
    return limit <= column ? 0 : (limit - column + step - 1) / step;
  };
  const std::int64_t begin = std::max({std::int64_t{0}, first_row - row, reached(first_column)});
  const std::int64_t end = std::min({count, first_row + rows - row, reached(first_column + columns)});
  return {row + begin - first_row, column + begin * step - first_column, step, std::max<std::int64_t>(0, end - begin)};
}

void fill_diagonal(Tensor& matrix, const Diagonal& diagonal, double value) {
  constexpr const char* kOp = "fill_diagonal";
  const OpScope scope(kOp);
  if (diagonal.count == 0) return;
  const Tensor element = Tensor::full({}, value, matrix.dtype(), matrix.device());
  const std::int64_t begin = diagonal.row * matrix.size(1) + diagonal.column;
  Tensor from_first = matrix.reshape({matrix.numel()}).slice(begin, matrix.numel());
  dispatch_floating(kOp, matrix.dtype(), [&]<class T>() {
    detail::call(kOp, matrix.device(), &kernels::LayoutKernels<T>::copy_blocks, diagonal.count, 1, element, 0,
                 from_first, matrix.size(1) + diagonal.step, Mode::kWrite);
  });
}

Tensor diagonal_of(const Tensor& matrix) {
  constexpr const char* kOp = "diagonal_of";
  const OpScope scope(kOp);
  const std::int64_t rows = matrix.size(0);
  Tensor diagonal = Tensor::empty({rows}, matrix.dtype(), matrix.device());
  dispatch_floating(kOp, matrix.dtype(), [&]<class T>() {
    detail::call(kOp, matrix.device(), &kernels::LayoutKernels<T>::copy_blocks, rows, 1, matrix, matrix.size(1) + 1,
                 diagonal, 1, Mode::kWrite);
  });
  return diagonal;
}

kernels::TileSizes logit_tile(const char* op, const TileOptions& tile, DType dtype, Device device) {
  kernels::TileSizes own;
  dispatch_floating(op, dtype, [&]<class T>() {
    own = kernels::find(&kernels::ContrastiveKernels<T>::contrastive_tile, op, device)();
  });
  own.cols *= kernels::Contrastive::kGroup;
  return detail::tile_sizes(op, tile, own);
}

}  // namespace tapecache::ops
