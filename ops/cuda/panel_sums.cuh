#pragma once

#include "tapecache/ops/cuda/logit_panel.cuh"
#include "tapecache/ops/cuda/packs.cuh"

/// Sums over the rows and over the columns of a panel of logits, from one read of it: a block takes a part, which its
/// threads keep in registers, and leaves the sums of each row and column of it. These are then added in a fixed order.
namespace tapecache::kernels::cuda {

constexpr unsigned kPartWarps = 8;
constexpr int kRowsHeld = 16;  // by a warp
constexpr std::int64_t kPartRows = kPartWarps * kRowsHeld;
template <class T>
constexpr int kColumnsHeld = kPackBytes / sizeof(T);  // by a lane
template <class T>
constexpr std::int64_t kPartColumns = kColumnsHeld<T>* kWarp;

/// Maxima and sums of exponentials relative to them: of each row in each part across, [parts, row pitch], and of each
/// column in each part down, [parts, column pitch].
template <class T>
struct PartSums {
  Pair<T>*of_rows, *of_columns;
  std::int64_t row_pitch, column_pitch;

  PartSums(T* memory, std::int64_t rows, std::int64_t cols)
      : of_rows(reinterpret_cast<Pair<T>*>(memory)),
        of_columns(of_rows + divide_up(cols, kPartColumns<T>) * rows),
        row_pitch(rows),
        column_pitch(cols) {}
  /// Elements of T.
  static std::int64_t size(std::int64_t rows, std::int64_t cols) {
    return 2 * (divide_up(cols, kPartColumns<T>) * rows + divide_up(rows, kPartRows) * cols);
  }
};

template <class T>
__device__ T finite_or_zero(T largest) {
  return std::isfinite(largest) ? largest : T{0};
}

/// The sums of each part. Lines of the panel begin at multiples of 16 bytes.
template <class T, class Equal>
__global__ void __launch_bounds__(kPartWarps* kWarp) sum_parts_kernel(Panel<T, Equal> panel, PartSums<T> sums) {
  constexpr int kHeld = kColumnsHeld<T>;
  __shared__ Pack<T, kHeld> of_warp[kPartWarps][kWarp];
  const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const std::int64_t across = (panel.cols + kPartColumns<T> - 1) / kPartColumns<T>,
                     down = (panel.rows + kPartRows - 1) / kPartRows;
  for (std::int64_t part = blockIdx.x; part < across * down; part += gridDim.x) {
    const std::int64_t part_row = part / across, part_col = part - part_row * across;
    const std::int64_t row = part_row * kPartRows + warp * kRowsHeld, col = part_col * kPartColumns<T> + lane * kHeld;
    Pack<T, kHeld> z[kRowsHeld];  // beyond the panel -Inf, which adds nothing
#pragma unroll
    for (int i = 0; i < kRowsHeld; ++i) {
      const bool inside = row + i < panel.rows && col < panel.cols;
      if (inside) z[i] = read_pack<kHeld>(panel.line(row + i) + col);
      const Logits<T, Equal> logits = panel.logits(row + i);
#pragma unroll
      for (int j = 0; j < kHeld; ++j) {
        z[i].x[j] =
            inside && col + j < panel.cols ? logits.of(col + j, z[i].x[j]) : -std::numeric_limits<T>::infinity();
      }
    }
#pragma unroll
    for (int i = 0; i < kRowsHeld; ++i) {
      T largest = z[i].x[0];
#pragma unroll
      for (int j = 1; j < kHeld; ++j) largest = Maximum{}(largest, z[i].x[j]);
      const T shift = finite_or_zero(warp_reduce(largest, Maximum{}));
      T sum{0};
#pragma unroll
      for (int j = 0; j < kHeld; ++j) sum += std::exp(z[i].x[j] - shift);
      sum = warp_reduce(sum, Sum{});
      if (lane == 0 && row + i < panel.rows) sums.of_rows[part_col * sums.row_pitch + row + i] = {shift, sum};
    }

    Pack<T, kHeld> shift = z[0], sum{};
#pragma unroll
    for (int j = 0; j < kHeld; ++j) {
#pragma unroll
      for (int i = 1; i < kRowsHeld; ++i) shift.x[j] = Maximum{}(shift.x[j], z[i].x[j]);
    }
    of_warp[warp][lane] = shift;
    __syncthreads();
    for (unsigned w = 0; w < kPartWarps; ++w) {
      for (int j = 0; j < kHeld; ++j) shift.x[j] = Maximum{}(shift.x[j], of_warp[w][lane].x[j]);
    }
    __syncthreads();  // of_warp is free again
#pragma unroll
    for (int j = 0; j < kHeld; ++j) {
      shift.x[j] = finite_or_zero(shift.x[j]);
#pragma unroll
      for (int i = 0; i < kRowsHeld; ++i) sum.x[j] += std::exp(z[i].x[j] - shift.x[j]);
    }
    of_warp[warp][lane] = sum;
    __syncthreads();
    if (warp == 0) {
      for (unsigned w = 1; w < kPartWarps; ++w) {
        for (int j = 0; j < kHeld; ++j) sum.x[j] += of_warp[w][lane].x[j];
      }
      for (int j = 0; j < kHeld; ++j) {
        if (col + j < panel.cols) sums.of_columns[part_row * sums.column_pitch + col + j] = {shift.x[j], sum.x[j]};
      }
    }
    __syncthreads();
  }
}

/// The rows of a panel, or its columns, and what their parts are added to.
template <class T>
struct Lines {
  std::int64_t count, parts, pitch;
  const Pair<T>* sums;
  RunningLogSumExp running;
  bool is_first, is_last;
  double* logsumexp;

  __device__ Exponentials part(std::int64_t p, std::int64_t i) const {
    const Pair<T> sum = sums[p * pitch + i];
    return exponentials(sum.first, sum.second);
  }
  /// A block adds up the parts of 32 lines, a thread every eighth of one.
  __device__ void add(std::int64_t first, double (*of_thread)[kColumnsOfBlock]) const {
    const unsigned column = threadIdx.x % kColumnsOfBlock, row = threadIdx.x / kColumnsOfBlock;
    const std::int64_t i = first + column, own = i < count ? parts : 0;
    const auto combine = [&](double value, auto how) {
      of_thread[row][column] = value;
      __syncthreads();
      double all = of_thread[0][column];
      for (unsigned r = 1; r < kRowsOfBlock; ++r) all = how(all, of_thread[r][column]);
      __syncthreads();  // of_thread is free again
      return all;
    };
    double largest = kNoSummand, sum = 0;
    for (std::int64_t p = row; p < own; p += kRowsOfBlock) largest = Maximum{}(largest, part(p, i).largest);
    largest = combine(largest, Maximum{});
    const double shift = finite_or_zero(largest);
    for (std::int64_t p = row; p < own; p += kRowsOfBlock) sum += part(p, i).sum * std::exp(part(p, i).largest - shift);
    sum = combine(sum, Sum{});
    if (row != 0 || i >= count) return;
    running.add(i, {largest, sum}, is_first);
    if (is_last) logsumexp[i] = running.logsumexp(i);
  }
};

template <class T, class Equal>
__global__ void add_parts_kernel(Panel<T, Equal> panel, Lines<T> rows, Lines<T> columns, double* positives) {
  __shared__ double of_thread[kRowsOfBlock][kColumnsOfBlock];
  const std::int64_t of_rows = (rows.count + kColumnsOfBlock - 1) / kColumnsOfBlock,
                     of_columns = (columns.count + kColumnsOfBlock - 1) / kColumnsOfBlock;
  for (std::int64_t group = blockIdx.x; group < of_rows + of_columns; group += gridDim.x) {
    if (group >= of_rows) {
      columns.add((group - of_rows) * kColumnsOfBlock, of_thread);
      continue;
    }
    rows.add(group * kColumnsOfBlock, of_thread);
    const std::int64_t i = group * kColumnsOfBlock + threadIdx.x;
    if (threadIdx.x >= kColumnsOfBlock || i >= rows.count) continue;
    const std::int64_t positive = panel.positive(i);
    if (positive >= 0) positives[i] = static_cast<double>(panel.logits(i)(positive));
  }
}

/// Adds a panel to the sums of its rows and of its columns, and remembers the logits of positives. Arrays over columns,
/// and `row_logsumexp`, are of the whole loss.
template <class T, class Equal>
void add_rows_and_columns(const Panel<T, Equal>& panel, const PartSums<T>& sums, const RunningLogSumExp& rows,
                          const RunningLogSumExp& columns, double* positives, bool is_last_of_rows,
                          bool is_last_of_columns, double* row_logsumexp, double* col_logsumexp) {
  const std::int64_t across = divide_up(panel.cols, kPartColumns<T>), down = divide_up(panel.rows, kPartRows);
  launch(sum_parts_kernel<T, Equal>, grid_of_rows(across * down, kPartWarps * kWarp), panel, sums);
  const Lines<T> of_rows{panel.rows, across,         sums.row_pitch,  sums.of_rows,
                         rows,       panel.col == 0, is_last_of_rows, row_logsumexp + panel.row};
  const Lines<T> of_columns{panel.cols,
                            down,
                            sums.column_pitch,
                            sums.of_columns,
                            {columns.largest + panel.col, columns.sum + panel.col},
                            panel.row == 0,
                            is_last_of_columns,
                            col_logsumexp + panel.col};
  launch(add_parts_kernel<T, Equal>,
         grid_of_rows(divide_up(panel.rows, kColumnsOfBlock) + divide_up(panel.cols, kColumnsOfBlock),
                      kColumnsOfBlock * kRowsOfBlock),
         panel, of_rows, of_columns, positives);
}

}  // namespace tapecache::kernels::cuda
