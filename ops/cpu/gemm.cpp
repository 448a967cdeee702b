#include <algorithm>
#include <type_traits>

#include "tapecache/core/element.h"
#include "tapecache/ops/cpu/cpu_kernels.h"
#include "tapecache/ops/cpu/product.h"
#include "tapecache/ops/cpu/product_bf16.h"
#include "tapecache/ops/cpu/product_shared.h"

namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT {

namespace {

constexpr std::int64_t kWorkPerTask = 1 << 18;  // multiplications below which a task is not worth its start
constexpr std::int64_t kMaxTasks = 4;           // a thread, so that one that is held up does not hold up the others
constexpr std::int64_t kRoundedSide = 512;      // of the block whose sums exist before they are rounded
constexpr double kPackingShare = 1.0 / 64;      // elements packed per multiplication-add that are not worth more tasks

constexpr std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// How finely products may be cut: into whole tiles and tasks worth their start, of which more are not worth more
/// packing.
struct Grain {
  std::int64_t rows, cols, work;
  double packing;  ///< elements packed per multiplication-add

  template <class In, class T>
  static Grain of() {
    // Tiles multiply 16 times as fast as they are packed by.
    if (std::is_same_v<In, BFloat16> && multiplies_by_tiles()) return {32, 32, 16 * kWorkPerTask, kPackingShare / 16};
    return {product_detail::kTileRows, product_detail::kTileCols<T>, kWorkPerTask, kPackingShare};
  }
};

/// How each product is cut: `down` × `across` parts of about equal size. The cut does not show in the result.
struct Cut {
  std::int64_t down = 1, across = 1, rows = 0, cols = 0;

  /// Into `parts` parts, or somewhat more; or as many as there are tiles. Every part packs what it reads.
  static Cut into(const Gemm& g, const Grain& grain, std::int64_t parts) {
    const std::int64_t most_down = divide_up(g.m, grain.rows), most_across = divide_up(g.n, grain.cols);
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
    best.rows = divide_up(divide_up(g.m, best.down), grain.rows) * grain.rows;
    best.cols = divide_up(divide_up(g.n, best.across), grain.cols) * grain.cols;
    best.down = divide_up(g.m, best.rows);
    best.across = divide_up(g.n, best.cols);
    return best;
  }

  /// Several parts a thread where packing costs little, else one.
  static Cut of(const Gemm& g, const Grain& grain) {
    const std::int64_t work = g.m * g.n * std::max<std::int64_t>(g.k, 1);
    for (std::int64_t tasks = kMaxTasks;; tasks /= 2) {
      const std::int64_t wanted = std::min(work / grain.work, divide_up(thread_count() * tasks, g.batch));
      const Cut cut = into(g, grain, std::max<std::int64_t>(wanted, 1));
      const double share = static_cast<double>(cut.across * g.m + cut.down * g.n) / static_cast<double>(g.m * g.n);
      if (tasks == 1 || share <= grain.packing) return cut;
    }
  }
};

/// One part of one product of a batch, whose sums are of T.
template <class In, class T, class Out = T>
struct Part {
  std::int64_t row, col, rows, cols;
  Operand<In> left, right;
  const T* bias;
  Out* c;
  std::int64_t at;  ///< where the part begins in all of C
};

/// op(B) of the first product of a batch.
template <class T>
Operand<T> right_of(const Gemm& g, const T* b) {
  return {b, g.row_stride_b(), g.transpose_b, g.packed_b ? g.n : 0};
}

/// Calls `multiply_part(part)` for each.
template <class In, class T, class Out, class Multiply>
void for_each_part(const Gemm& g, const In* a, const In* b, const T* bias, Out* c, const Multiply& multiply_part) {
  if (g.batch <= 0 || g.m <= 0 || g.n <= 0) return;
  const Grain grain = Grain::of<In, T>();
  const Cut cut = Cut::of(g, grain);
  const std::int64_t parts = cut.down * cut.across;
  const std::int64_t work = g.m * g.n * std::max<std::int64_t>(g.k, 1) / parts;
  parallel_for(g.batch * parts, block_for(work, grain.work), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t batch = i / parts;
      const std::int64_t row = i % parts / cut.across * cut.rows, col = i % cut.across * cut.cols;
      const Operand<In> left{a + batch * g.stride_a, g.row_stride_a(), g.transpose_a};
      const Operand<In> right = right_of(g, b + batch * g.stride_b);
      const std::int64_t at = batch * g.stride_c + row * g.row_stride_c() + col;
      multiply_part(Part<In, T, Out>{row, col, std::min(cut.rows, g.m - row), std::min(cut.cols, g.n - col),
                                     left.from_row(row), right.from_col(col), bias ? bias + col : nullptr, c + at, at});
    }
  });
}

/// True where all threads have computed the product together.
template <class T, class Fused = Plain>
bool multiplied_together(const Gemm& g, const T* a, const T* b, const T* bias, const T* residual, T* c, Mode mode,
                         const Fused& fused = {}) {
  return g.batch == 1 && multiply_together<T>(g.m, g.n, g.k, {a, g.row_stride_a(), g.transpose_a}, right_of(g, b), c,
                                              g.row_stride_c(), mode == Mode::kAccumulate, bias, residual, fused);
}

template <class In, class T>
void multiply_parts(const Gemm& g, const In* a, const In* b, const T* bias, const T* residual, T* c, Mode mode) {
  for_each_part<In, T>(g, a, b, bias, c, [&](const Part<In, T>& part) {
    multiply(part.rows, part.cols, g.k, part.left, part.right, part.c, g.row_stride_c(), mode == Mode::kAccumulate,
             part.bias, residual ? residual + part.at : nullptr);
  });
}

/// C rounded. `change(sums, place, count)` gives what stands for each piece of a row, `place` being where in C it
/// belongs.
template <class Low, class Change>
void multiply_and_round(const Gemm& g, const Low* a, const Low* b, const float* bias, Low* c, Mode mode,
                        const Change& change) {
  struct Rows;
  for_each_part<Low, float>(g, a, b, bias, c, [&](const Part<Low, float, Low>& part) {
    for (std::int64_t row = 0; row < part.rows; row += kRoundedSide) {
      for (std::int64_t col = 0; col < part.cols; col += kRoundedSide) {
        const std::int64_t rows = std::min(kRoundedSide, part.rows - row),
                           cols = std::min(kRoundedSide, part.cols - col);
        float* sums = thread_scratch<float, Rows>(rows * cols);
        multiply(rows, cols, g.k, part.left.from_row(row), part.right.from_col(col), sums, cols, false,
                 part.bias ? part.bias + col : nullptr);
        for (std::int64_t i = 0; i < rows; ++i) {
          const std::int64_t begin = (row + i) * g.row_stride_c() + col;
          put_all(part.c + begin, change(sums + i * cols, part.at + begin, cols), cols, mode);
        }
      }
    }
  });
}

template <class T>
struct ActivatedLeft : Plain {
  static constexpr bool kLeft = true;
  UnaryOp op;
  void left(T* x, std::int64_t count) const { Provided<UnaryKernels<T>>::kernels.unary(op, 0, 0, count, x, x); }
};

template <class T>
struct ActivatedRight : Plain {
  static constexpr bool kRight = true;
  UnaryOp op;
  void right(T* x, std::int64_t count) const { Provided<UnaryKernels<T>>::kernels.unary(op, 0, 0, count, x, x); }
};

template <class T>
struct TimesDerivative : Plain {
  static constexpr bool kResult = true;
  UnaryOp op;
  const T* at;
  std::int64_t stride;
  void result(T* c, std::int64_t i, std::int64_t j, std::int64_t count) const {
    Provided<UnaryKernels<T>>::kernels.unary_backward(op, 0, 0, count, at + i * stride + j, c, c, Mode::kWrite);
  }
};

template <class T>
void gemm(const Gemm& g, const T* a, const T* b, const T* bias, const T* residual, T* c, Mode mode) {
  if (!multiplied_together(g, a, b, bias, residual, c, mode)) multiply_parts(g, a, b, bias, residual, c, mode);
}

template <class T>
std::int64_t packed_elements(std::int64_t n, std::int64_t k) {
  return product_detail::packed_size<T>(n, k);
}

template <class T>
void pack_factor(const Gemm& g, const T* b, T* packed) {
  using namespace product_detail;
  constexpr std::int64_t kTogether = 4 * kTileCols<T>;
  const Operand<T> right = right_of(g, b);
  const std::int64_t across = divide_up(g.n, kTogether);
  parallel_for(across * divide_up(g.k, kDepth), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t term = i / across * kDepth, depth = std::min(kDepth, g.k - term);
      const std::int64_t col = i % across * kTogether, cols = std::min(kTogether, g.n - col);
      pack_right(right, term, depth, col, cols, packed + packed_size<T>(g.n, term) + col * depth);
    }
  });
}

template <class Low>
void low_gemm(const Gemm& g, const Low* a, const Low* b, const float* bias, const float* residual, float* c,
              Mode mode) {
  multiply_parts(g, a, b, bias, residual, c, mode);
}

template <class Low>
void low_gemm_rounded(const Gemm& g, const Low* a, const Low* b, const float* bias, Low* c, Mode mode) {
  multiply_and_round(g, a, b, bias, c, mode, [](const float* sums, std::int64_t, std::int64_t) { return sums; });
}

template <class Low>
void low_derivative_gemm(const Gemm& g, UnaryOp op, const Low* a, const Low* b, const Low* at, Low* c, Low* value) {
  struct Products;
  multiply_and_round(g, a, b, nullptr, c, Mode::kWrite, [=](const float* sums, std::int64_t place, std::int64_t count) {
    float* products = thread_scratch<float, Products>(count);  // not in place, which would not be vectorised
    Provided<UnaryKernels<Low>>::kernels.unary_backward_to_f32(op, count, at + place, sums, products, Mode::kWrite);
    if (value) Provided<UnaryKernels<Low>>::kernels.unary(op, count, at + place, value + place);
    return products;
  });
}

template <class Low>
void low_parameter_gradients(const Gemm& g, const Low* dy, const Low* x, float* dw, Mode dw_mode, float* db,
                             Mode db_mode) {
  multiply_parts<Low, float>(g, dy, x, nullptr, nullptr, dw, dw_mode);
  Provided<ReduceKernels<Low>>::kernels.sum_rows(g.k, g.m, g.row_stride_a(), dy, db, db_mode);
}

template <class T>
void activated_gemm(const Gemm& g, UnaryOp op, Activated place, const T* a, const T* b, const T* bias,
                    const T* residual, const T* at, T* c, Mode mode) {
  // `joined(row, col)` is what the product is joined with from there on.
  const auto joined_with = [&](const auto& joined) {
    if (multiplied_together(g, a, b, bias, residual, c, mode, joined(0, 0))) return;
    for_each_part<T, T>(g, a, b, bias, c, [&](const Part<T, T>& part) {
      multiply(part.rows, part.cols, g.k, part.left, part.right, part.c, g.row_stride_c(), mode == Mode::kAccumulate,
               part.bias, residual ? residual + part.at : nullptr, joined(part.row, part.col));
    });
  };
  switch (place) {
    case Activated::kLeft:
      return joined_with([=](std::int64_t, std::int64_t) { return ActivatedLeft<T>{{}, op}; });
    case Activated::kRight:
      return joined_with([=](std::int64_t, std::int64_t) { return ActivatedRight<T>{{}, op}; });
    case Activated::kDerivative:
      return joined_with([=](std::int64_t row, std::int64_t col) {
        return TimesDerivative<T>{{}, op, at + row * g.n + col, g.n};
      });
  }
}

template <class T>
constexpr GemmKernels<T> kGemm{
    .gemm = gemm<T>,
    .activated_gemm = activated_gemm<T>,
    .packed_elements = packed_elements<T>,
    .pack_factor = pack_factor<T>,
};
template <class Low>
requires kLowPrecision<Low>
constexpr GemmKernels<Low> kGemm<Low>{
    .gemm = low_gemm<Low>,
    .gemm_rounded = low_gemm_rounded<Low>,
    .derivative_gemm = low_derivative_gemm<Low>,
    .parameter_gradients = low_parameter_gradients<Low>,
};

}  // namespace

template <>
const GemmKernels<float> Provided<GemmKernels<float>>::kernels = kGemm<float>;
template <>
const GemmKernels<double> Provided<GemmKernels<double>>::kernels = kGemm<double>;
template <>
const GemmKernels<BFloat16> Provided<GemmKernels<BFloat16>>::kernels = kGemm<BFloat16>;
template <>
const GemmKernels<Float16> Provided<GemmKernels<Float16>>::kernels = kGemm<Float16>;

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT
