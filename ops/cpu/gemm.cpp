#include <algorithm>

#include "tapecache/ops/cpu/cpu_kernels.h"
#include "tapecache/ops/cpu/product.h"

namespace tapecache::kernels::cpu {

namespace {

constexpr std::int64_t kWorkPerTask = 1 << 18;  // multiplications below which a task is not worth its start
constexpr std::int64_t kTasksPerThread = 4;     // so that a thread that is held up does not hold up the others

constexpr std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// How each product is cut: `down` × `across` parts of about equal size. The cut does not show in the result.
struct Cut {
  std::int64_t down = 1, across = 1, rows, cols;

  template <class T>
  static Cut of(const Gemm& g) {
    const std::int64_t tile_rows = product_detail::kTileRows, tile_cols = product_detail::kTileCols<T>;
    const std::int64_t work = g.m * g.n * std::max<std::int64_t>(g.k, 1);
    const std::int64_t wanted = std::min(work / kWorkPerTask, divide_up(thread_count() * kTasksPerThread, g.batch));
    const std::int64_t most_down = divide_up(g.m, tile_rows), most_across = divide_up(g.n, tile_cols);
    Cut best;
    std::int64_t least = -1;
    for (std::int64_t across = 1; across <= std::min(most_across, std::max<std::int64_t>(wanted, 1)); ++across) {
      const std::int64_t down = std::clamp<std::int64_t>(divide_up(wanted, across), 1, most_down);
      const std::int64_t packed = across * g.m + down * g.n;  // every part packs what it reads
      if (down * across < std::min(wanted, most_down * most_across) || (least >= 0 && packed >= least)) continue;
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
};

}  // namespace

template <class T>
void gemm(const Gemm& g, const T* a, const T* b, const T* bias, T* c, Mode mode) {
  if (g.batch <= 0 || g.m <= 0 || g.n <= 0) return;
  const Cut cut = Cut::of<T>(g);
  const std::int64_t parts = cut.down * cut.across;
  const std::int64_t work = g.m * g.n * std::max<std::int64_t>(g.k, 1) / parts;
  parallel_for(g.batch * parts, block_for(work, kWorkPerTask), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t batch = i / parts;
      const std::int64_t row = i % parts / cut.across * cut.rows, col = i % cut.across * cut.cols;
      Operand<T> left{a + batch * g.stride_a, g.transpose_a ? g.m : g.k, g.transpose_a};
      Operand<T> right{b + batch * g.stride_b, g.transpose_b ? g.k : g.n, g.transpose_b};
      left.data = left.at(row, 0);
      right.data = right.at(0, col);
      multiply(std::min(cut.rows, g.m - row), std::min(cut.cols, g.n - col), g.k, left, right,
               c + batch * g.stride_c + row * g.n + col, g.n, mode == Mode::kAccumulate, bias ? bias + col : nullptr);
    }
  });
}

template void gemm(const Gemm&, const float*, const float*, const float*, float*, Mode);
template void gemm(const Gemm&, const double*, const double*, const double*, double*, Mode);

}  // namespace tapecache::kernels::cpu
