#include <algorithm>
#include <cmath>

#include "tapecache/ops/cuda/cuda_kernels.h"
#include "tapecache/ops/cuda/logit_panel.cuh"
#include "tapecache/ops/cuda/panel_sums.cuh"

namespace tapecache::kernels::cuda {

namespace {

constexpr std::int64_t kPitchStep = 32;  // elements, so that lines of a panel are as aligned as products like them

/// Between the lines of a panel.
std::int64_t pitch_of(const Contrastive& c) { return divide_up(c.group() * c.tile_cols, kPitchStep) * kPitchStep; }

/// Calls `f(panel, is_last of its row of tiles)` for each panel a bᵀ.
template <class T, class F, class OnRow>
void for_each_panel(const Contrastive& c, const T* a, const T* b, const T* scale, const T* bias, T* workspace,
                    const F& f, const OnRow& on_row) {
  const std::int64_t columns = c.group() * c.tile_cols, pitch = pitch_of(c);
  for (std::int64_t row = 0; row < c.rows; row += c.tile_rows) {
    const std::int64_t rows = std::min(c.tile_rows, c.rows - row);
    for (std::int64_t col = 0; col < c.cols; col += columns) {
      const std::int64_t cols = std::min(columns, c.cols - col);
      Provided<GemmKernels<T>>::kernels.gemm(
          {.m = rows, .n = cols, .k = c.width, .transpose_b = true, .pitch_c = pitch}, a + row * c.width,
          b + col * c.width, nullptr, nullptr, workspace, Mode::kWrite);
      with_equal_pairs(c.equal, [&]<class Equal>(const Equal& equal) {
        f(Panel<T, Equal>{workspace, scale, bias, row, col, rows, cols, pitch, c.step, equal}, col + cols == c.cols);
      });
    }
    on_row(row, rows);
  }
}

/// Σ log(1 + eᶻ) of each row, with -z for the z of the positive.
template <class T, class Equal, class By>
__global__ void __launch_bounds__(kMaxRowThreads) sigmoid_rows_kernel(Panel<T, Equal> panel, double* losses) {
  for (std::int64_t i = By::first_row(); i < panel.rows; i += By::row_step()) {
    const Row<By, Logits<T, Equal>> row(panel.cols, panel.logits(i));
    const std::int64_t positive = panel.positive(i);
    const T sum = row.sum([=](std::int64_t j, T logit) {
      const T z = j == positive ? -logit : logit;
      return (z > T{0} ? z : T{0}) + std::log1p(std::exp(-std::fabs(z)));
    });
    if (By::thread() != 0) continue;
    const double loss = static_cast<double>(sum);
    losses[i] = panel.col == 0 ? loss : losses[i] + loss;
  }
}

/// The mean of the softmax over the row and that over the column, less 1 at positives.
template <class T>
struct BothSoftmaxes {
  const LogSumExp<T>*rows, *columns;
  __device__ T operator()(std::int64_t row, std::int64_t col, T logit, T share, bool is_positive) const {
    const T both = T(0.5) * share * (softmax(logit, rows[row]) + softmax(logit, columns[col]));
    return is_positive ? both - share : both;
  }
};

/// σ(z), and -σ(-z) at positives.
template <class T>
struct Sigmoids {
  __device__ T operator()(std::int64_t, std::int64_t, T logit, T share, bool is_positive) const {
    return is_positive ? -share / (T{1} + std::exp(logit)) : share / (T{1} + std::exp(-logit));
  }
};

template <class T, class F>
void with_slope(const Contrastive& c, const Normalizers<T>& rows, const Normalizers<T>& columns, const F& f) {
  switch (c.op) {
    case ContrastiveOp::kRows:
      return f(RowSoftmax<T>{rows.data()});
    case ContrastiveOp::kRowsAndColumns:
      return f(BothSoftmaxes<T>{rows.data(), columns.data()});
    case ContrastiveOp::kSigmoid:
      return f(Sigmoids<T>{});
  }
}

/// Panels of 4096 by 4096, 64 MiB of f32. Each of their products fills a device then: in blocks of 128 by 128, that of
/// the logits is 1024, and those of the gradients, for a width of 512, are 128, as wide panels of fewer rows would not
/// be. And 4096 columns are what kernels over rows read once.
template <class T>
TileSizes contrastive_tile() {
  return {4096, 4096 / Contrastive::kGroup};
}

template <class T>
std::int64_t contrastive_workspace(const Contrastive& c) {
  const bool both = c.op == ContrastiveOp::kRowsAndColumns;
  return c.tile_rows * pitch_of(c) + (both ? PartSums<T>::size(c.tile_rows, pitch_of(c)) : 0);
}

template <class T>
void contrastive(const Contrastive& c, const T* a, const T* b, const T* scale, const T* bias, double* row_logsumexp,
                 double* col_logsumexp, T* loss, T* workspace, double* partials) {
  double* const positives = partials + 2 * c.tile_rows;
  const RunningLogSumExp rows{partials, partials + c.tile_rows};
  const RunningLogSumExp columns{positives + c.tile_rows, positives + c.tile_rows + c.cols};
  const bool sigmoid = c.op == ContrastiveOp::kSigmoid, both = c.op == ContrastiveOp::kRowsAndColumns;
  const PartSums<T> sums(workspace + c.tile_rows * pitch_of(c), c.tile_rows, pitch_of(c));
  const Scratch<double> total(1);
  for_each_panel(
      c, a, b, scale, bias, workspace,
      [&]<class Equal>(const Panel<T, Equal>& panel, bool is_last) {
        if (sigmoid) {
          with_row_threads(panel.rows, panel.cols, [&]<class By>(By, const Grid& grid) {
            launch(sigmoid_rows_kernel<T, Equal, By>, grid, panel, positives);
          });
          return;
        }
        if (!both) return add_rows(panel, rows, positives, is_last, row_logsumexp);
        add_rows_and_columns(panel, sums, rows, columns, positives, is_last, panel.row + panel.rows == c.rows,
                             row_logsumexp, col_logsumexp);
      },
      [&](std::int64_t row, std::int64_t count) {
        if (sigmoid) add_to_total(count, Summand{positives}, total.data(), row == 0);
        else add_to_total(count, RowLoss{row_logsumexp + row, positives, both ? 2.0 : 1.0}, total.data(), row == 0);
      });
  if (both) add_to_total(c.cols, Summand{col_logsumexp}, total.data(), false);
  store_total(total.data(), static_cast<double>(both ? 2 * c.rows : c.rows), loss);
}

// dA = scale dZ B; dB = scale dZᵀ A; dscale = Σ dZ (A Bᵀ); dbias = Σ dZ
template <class T>
void contrastive_backward(const Contrastive& c, const T* a, const T* b, const T* scale, const T* bias,
                          const double* row_logsumexp, const double* col_logsumexp, const T* dloss, T* da, Mode da_mode,
                          T* db, Mode db_mode, T* dscale, T* dbias, T* workspace, double* partials) {
  struct Totals {
    double scale, bias;
  };
  const Cotangent<T> cotangent{dloss, static_cast<double>(c.rows)};
  double *of_scale = partials, *of_bias = partials + c.tile_rows;
  const Scratch<Totals> totals(1);
  const Normalizers<T> rows_of_loss(c.op == ContrastiveOp::kSigmoid ? 0 : c.rows, row_logsumexp),
      columns_of_loss(c.op == ContrastiveOp::kRowsAndColumns ? c.cols : 0, col_logsumexp);
  for_each_panel(
      c, a, b, scale, bias, workspace,
      [&](const auto& panel, bool) {
        with_slope(c, rows_of_loss, columns_of_loss,
                   [&](const auto& slope) { differentiate(panel, slope, cotangent, of_bias, of_scale); });
        if (db) {
          Provided<GemmKernels<T>>::kernels.gemm(
              {.m = panel.cols, .n = c.width, .k = panel.rows, .transpose_a = true, .pitch_a = panel.pitch}, panel.z,
              a + panel.row * c.width, nullptr, nullptr, db + panel.col * c.width,
              panel.row > 0 ? Mode::kAccumulate : db_mode);
        }
        if (da) {
          Provided<GemmKernels<T>>::kernels.gemm(
              {.m = panel.rows, .n = c.width, .k = panel.cols, .pitch_a = panel.pitch}, panel.z,
              b + panel.col * c.width, nullptr, nullptr, da + panel.row * c.width,
              panel.col > 0 ? Mode::kAccumulate : da_mode);
        }
      },
      [&](std::int64_t row, std::int64_t rows) {
        add_to_total(rows, Summand{of_scale}, &totals.data()->scale, row == 0);
        add_to_total(rows, Summand{of_bias}, &totals.data()->bias, row == 0);
      });
  store_total(&totals.data()->scale, 1, dscale);
  store_total(&totals.data()->bias, 1, dbias);
}

template <class T>
constexpr ContrastiveKernels<T> kContrastive{
    .contrastive_tile = contrastive_tile<T>,
    .contrastive_workspace = contrastive_workspace<T>,
    .contrastive = contrastive<T>,
    .contrastive_backward = contrastive_backward<T>,
};

}  // namespace

template <>
const ContrastiveKernels<float> Provided<ContrastiveKernels<float>>::kernels = kContrastive<float>;
template <>
const ContrastiveKernels<double> Provided<ContrastiveKernels<double>>::kernels = kContrastive<double>;

}  // namespace tapecache::kernels::cuda
