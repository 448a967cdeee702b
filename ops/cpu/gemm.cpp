#include <algorithm>

#include "tapecache/ops/cpu/cpu_kernels.h"
#include "tapecache/ops/cpu/product.h"
#include "tapecache/ops/cpu/product_bf16.h"

namespace tapecache::kernels::cpu {

namespace {

constexpr std::int64_t kWorkPerTask = 1 << 18;  // multiplications below which a task is not worth its start
constexpr std::int64_t kMostTasks = 4;          // a thread, so that one that is held up does not hold up the others
constexpr double kPackingShare = 1.0 / 64;      // elements packed per multiplication-add that are not worth more tasks

constexpr std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// How each product is cut: `down` × `across` parts of about equal size. The cut does not show in the result.
struct Cut {
  std::int64_t down = 1, across = 1, rows = 0, cols = 0;

  /// Into `parts` parts, or somewhat more; or as many as there are tiles. Every part packs what it reads.
  template <class T>
  static Cut into(const Gemm& g, std::int64_t parts) {
    const std::int64_t tile_rows = product_detail::kTileRows, tile_cols = product_detail::kTileCols<T>;
    const std::int64_t most_down = divide_up(g.m, tile_rows), most_across = divide_up(g.n, tile_cols);
    parts = std::min(parts, most_down * most_across);
    Cut best;
    std::int64_t least = -1;
    for (std::int64_t across = 1; across <= std::min(most_across, parts); ++across) {
      const std::int64_t down = divide_up(parts, across);
      const std::int64_t packed = across * g.m + down * g.n;
      if (down > most_down || (least >= 0 && packed >= least)) continue;
      least = packed;
      best.down = down;
      best.across = across;
    }
    best.rows = divide_up(divide_up(g.m, best.down), tile_rows) * tile_rows;
    best.cols = divide_up(divide_up(g.n, best.across), tile_cols) * tile_cols;
    best.down = divide_up(g.m, best.rows);
    best.across = divide_up(g.n, best.cols);
    return best;
  }

  /// Several parts a thread where packing costs little, else one.
  template <class T>
  static Cut of(const Gemm& g) {
    const std::int64_t work = g.m * g.n * std::max<std::int64_t>(g.k, 1);
    for (std::int64_t tasks = kMostTasks; ; tasks /= 2) {
      const std::int64_t wanted = std::min(work / kWorkPerTask, divide_up(thread_count() * tasks, g.batch));
      const Cut cut = into<T>(g, std::max<std::int64_t>(wanted, 1));
      const double share = static_cast<double>(cut.across * g.m + cut.down * g.n) / static_cast<double>(g.m * g.n);
      if (tasks == 1 || share <= kPackingShare) return cut;
    }
  }
};

/// `multiply_part(row, col, rows, cols, left, right, c, bias)` multiplies one part.
template <class In, class T, class Part>
void for_each_part(const Gemm& g, const In* a, const In* b, const T* bias, T* c, const Part& multiply_part) {
  if (g.batch <= 0 || g.m <= 0 || g.n <= 0) return;
  const Cut cut = Cut::of<T>(g);
  const std::int64_t parts = cut.down * cut.across;
  const std::int64_t work = g.m * g.n * std::max<std::int64_t>(g.k, 1) / parts;
  parallel_for(g.batch * parts, block_for(work, kWorkPerTask), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t batch = i / parts;
      const std::int64_t row = i % parts / cut.across * cut.rows, col = i % cut.across * cut.cols;
      Operand<In> left{a + batch * g.stride_a, g.transpose_a ? g.m : g.k, g.transpose_a};
      Operand<In> right{b + batch * g.stride_b, g.transpose_b ? g.k : g.n, g.transpose_b};
      left.data = left.at(row, 0);
      right.data = right.at(0, col);
      multiply_part(row, col, std::min(cut.rows, g.m - row), std::min(cut.cols, g.n - col), left, right,
                    c + batch * g.stride_c + row * g.n + col, bias ? bias + col : nullptr);
    }
  });
}

template <class In, class T>
void multiply_parts(const Gemm& g, const In* a, const In* b, const T* bias, T* c, Mode mode) {
  for_each_part(g, a, b, bias, c, [&](std::int64_t, std::int64_t, std::int64_t rows, std::int64_t cols,
                                      const Operand<In>& left, const Operand<In>& right, T* to, const T* added) {
    multiply(rows, cols, g.k, left, right, to, g.n, mode == Mode::kAccumulate, added);
  });
}

template <class T>
struct ActivatedLeft : Plain {
  static constexpr bool kLeft = true;
  UnaryOp op;
  void left(T* x, std::int64_t count) const { unary<T>(op, 0, 0, count, x, x); }
};

template <class T>
struct ActivatedRight : Plain {
  static constexpr bool kRight = true;
  UnaryOp op;
  void right(T* x, std::int64_t count) const { unary<T>(op, 0, 0, count, x, x); }
};

template <class T>
struct TimesDerivative : Plain {
  static constexpr bool kResult = true;
  UnaryOp op;
  const T* at;
  std::int64_t stride;
  void result(T* c, std::int64_t i, std::int64_t j, std::int64_t count) const {
    unary_backward<T>(op, 0, 0, count, at + i * stride + j, c, c, Mode::kWrite);
  }
};

}  // namespace

template <class T>
void gemm(const Gemm& g, const T* a, const T* b, const T* bias, T* c, Mode mode) {
  multiply_parts(g, a, b, bias, c, mode);
}

void gemm_bf16(const Gemm& g, const BFloat16* a, const BFloat16* b, const float* bias, float* c, Mode mode) {
  multiply_parts(g, a, b, bias, c, mode);
}

template <class T>
void activated_gemm(const Gemm& g, UnaryOp op, Activated place, const T* a, const T* b, const T* bias, const T* at,
                    T* c, Mode mode) {
  const bool accumulate = mode == Mode::kAccumulate;
  for_each_part(g, a, b, bias, c, [&](std::int64_t row, std::int64_t col, std::int64_t rows, std::int64_t cols,
                                      const Operand<T>& left, const Operand<T>& right, T* to, const T* added) {
    switch (place) {
      case Activated::kLeft:
        return multiply(rows, cols, g.k, left, right, to, g.n, accumulate, added, ActivatedLeft<T>{{}, op});
      case Activated::kRight:
        return multiply(rows, cols, g.k, left, right, to, g.n, accumulate, added, ActivatedRight<T>{{}, op});
      case Activated::kDerivative:
        return multiply(rows, cols, g.k, left, right, to, g.n, accumulate, added,
                        TimesDerivative<T>{{}, op, at + row * g.n + col, g.n});
    }
  });
}

template void gemm(const Gemm&, const float*, const float*, const float*, float*, Mode);
template void gemm(const Gemm&, const double*, const double*, const double*, double*, Mode);
template void activated_gemm(const Gemm&, UnaryOp, Activated, const float*, const float*, const float*, const float*,
                             float*, Mode);
template void activated_gemm(const Gemm&, UnaryOp, Activated, const double*, const double*, const double*,
                             const double*, double*, Mode);

}  // namespace tapecache::kernels::cpu
