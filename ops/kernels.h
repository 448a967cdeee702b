#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <type_traits>

#include "tapecache/core/device.h"
#include "tapecache/core/dtype.h"
#include "tapecache/core/philox.h"
#include "tapecache/core/shape.h"

/// The contract between ops and backends: kernels are plain functions over pointers and sizes, one table of function
/// pointers per backend and element type. All arrays are contiguous and row-major.
namespace tapecache::kernels {

/// Whether a gradient kernel overwrites its destination or adds to it.
enum class Mode { kWrite, kAccumulate };

enum class BinaryOp { kAdd, kSubtract, kMultiply, kDivide };

/// Element-wise functions of one argument; `a` and `b` are their numbers.
enum class UnaryOp {
  kScale,      // a x
  kExp,
  kLog,
  kSqrt,
  kRsqrt,      // 1 / sqrt(x)
  kPow,        // x^a
  kTanh,
  kErf,
  kSigmoid,
  kRelu,
  kGelu,       // x Φ(x), with erf
  kGeluTanh,   // 0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³)))
  kQuickGelu,  // x σ(1.702 x)
  kSilu,       // x σ(x)
  kSoftplus,   // log(1 + eˣ)
  kClamp,      // min(max(x, a), b)
};

/// Whether the derivative of a unary function is taken from its output (else from its input).
constexpr bool derivative_uses_output(UnaryOp op) {
  return op == UnaryOp::kExp || op == UnaryOp::kSqrt || op == UnaryOp::kRsqrt || op == UnaryOp::kTanh ||
         op == UnaryOp::kSigmoid;
}

enum class ReduceOp { kSum, kMean, kMax, kLogSumExp };

/// Strides by which two operands are read while the output shape is walked; 0 where an operand is repeated.
struct Broadcast {
  int rank = 0;
  std::array<std::int64_t, Shape::kMaxRank> sizes{}, a{}, b{};
};

/// C = op(A) op(B) for `batch` matrices. op(A) is [m, k], op(B) [k, n], C [m, n]; with transpose_a, A is stored
/// [k, m]; with transpose_b, B is stored [n, k]. A batch stride of 0 repeats the matrix. The pitches are the distances
/// between rows as they are stored, 0 where no gap is between them.
struct Gemm {
  std::int64_t batch = 1, m = 0, n = 0, k = 0;
  bool transpose_a = false, transpose_b = false;
  std::int64_t stride_a = 0, stride_b = 0, stride_c = 0;
  std::int64_t pitch_a = 0, pitch_b = 0, pitch_c = 0;

  std::int64_t row_stride_a() const { return pitch_a != 0 ? pitch_a : transpose_a ? m : k; }
  std::int64_t row_stride_b() const { return pitch_b != 0 ? pitch_b : transpose_b ? k : n; }
  std::int64_t row_stride_c() const { return pitch_c != 0 ? pitch_c : n; }
};

/// Where a function f stands in a product: C = f(op(A)) op(B), C = op(A) f(op(B)), or C = op(A) op(B) · f'(at).
enum class Activated { kLeft, kRight, kDerivative };

/// The samples that rows belong to: `ids` where it is not null, else first, first + 1, …
struct Samples {
  std::int64_t first = 0, count = 0;
  const std::int64_t* ids = nullptr;
};

/// x [outer, count, inner] by channel: the axis of `count`.
struct Channels {
  std::int64_t outer = 0, count = 0, inner = 0;
};

/// Attention on packed [batch, tokens, 3, heads, width] queries, keys and values.
struct Attention {
  std::int64_t batch = 0, tokens = 0, heads = 0, width = 0;
  double scale = 1;
  bool causal = false;
};

/// Which cross-entropies a contrastive loss takes of its logits.
enum class ContrastiveOp {
  kRows,            // mean over rows of -log softmax
  kRowsAndColumns,  // the mean of that and of the same over columns
  kSigmoid,         // Σ log(1 + exp(∓z)) / rows, positives with the minus sign
};

/// A loss over the logits z = scale · a bᵀ + bias of a [rows, width] and b [cols, width], taken tile by tile. The
/// positive of row i is column i · step.
struct Contrastive {
  ContrastiveOp op = ContrastiveOp::kRows;
  std::int64_t rows = 0, cols = 0, width = 0, step = 1;
  std::int64_t tile_rows = 1, tile_cols = 1;

  /// Tiles beside each other that are in memory together.
  static constexpr std::int64_t kGroup = 8;
  std::int64_t tiles_across() const { return (cols + tile_cols - 1) / tile_cols; }
  std::int64_t group() const { return tiles_across() < kGroup ? tiles_across() : kGroup; }
  /// Elements of T: a group of tiles, and two blocks of its rows.
  std::int64_t workspace() const { return tile_rows * (group() * tile_cols + 2 * width); }
  /// Doubles: a maximum and a sum for each row in each tile of a group, for each row, and for each column.
  std::int64_t partials() const { return 2 * (group() + 1) * tile_rows + 2 * cols; }
};

/// InfoNCE over scale · Σ_t max_s q[i, t] · d[j, s] of queries [queries, query_tokens, width] and documents [documents,
/// document_tokens, width], taken tile by tile. The positive of query i is document i · step.
struct MaxSim {
  std::int64_t queries = 0, documents = 0, query_tokens = 0, document_tokens = 0, width = 0, step = 1;
  std::int64_t tile_rows = 1, tile_cols = 1;

  /// Tiles beside each other that are in memory together.
  static constexpr std::int64_t kGroup = 8;
  std::int64_t tiles_across() const { return (documents + tile_cols - 1) / tile_cols; }
  std::int64_t group() const { return tiles_across() < kGroup ? tiles_across() : kGroup; }
  /// Elements of T: similarities and scores of a group of tiles.
  std::int64_t workspace() const { return tile_rows * group() * tile_cols * (query_tokens * document_tokens + 1); }
  /// Doubles: a maximum and a sum for each query in each tile of a group; a maximum, a sum and a positive a query.
  std::int64_t partials() const { return (2 * group() + 3) * tile_rows; }
  /// Best document tokens of a group of tiles.
  std::int64_t best() const { return tile_rows * query_tokens * group() * tile_cols; }
};

/// One step of AdamW (Loshchilov & Hutter 2019).
struct AdamW {
  double learning_rate, beta1, beta2, epsilon, gradient_scale;
};

struct Sgd {
  double learning_rate, momentum, gradient_scale;
};

/// What an update reads and changes, for many arrays at once. `first` is the number of elements in the arrays before it;
/// the corrections are 1 - βᵗ.
template <class T>
struct AdamWArrays {
  std::int64_t first, size;
  const T* gradient;
  T *value, *m, *v;
  double weight_decay, correction1, correction2;
};

template <class T>
struct SgdArrays {
  std::int64_t first, size;
  const T* gradient;
  T *value, *velocity;
  double weight_decay;
};

template <class T>
struct ConstArray {
  std::int64_t first, size;
  const T* data;
};

/// Elements of all arrays together that one block of an update, and one partial sum, is of.
constexpr std::int64_t kUpdateBlock = 16384;

template <class T>
struct KernelTable {
  // Element-wise. `saved` is the output or the input, by derivative_uses_output.
  void (*unary)(UnaryOp, double a, double b, std::int64_t n, const T* x, T* y);
  void (*unary_backward)(UnaryOp, double a, double b, std::int64_t n, const T* saved, const T* dy, T* dx, Mode);
  // Over bf16: x itself rounded, f(x) rounded, and the derivative of f at x, for a function without numbers of its own.
  void (*to_bf16)(std::int64_t n, const T* x, BFloat16* y);
  void (*unary_bf16)(UnaryOp, std::int64_t n, const BFloat16* x, BFloat16* y);
  void (*unary_backward_bf16)(UnaryOp, std::int64_t n, const BFloat16* x, const T* dy, T* dx, Mode);
  void (*binary)(BinaryOp, const Broadcast&, const T* a, const T* b, T* y);
  // Gradient of operand 0 or 1 in that operand's own shape: sums over the axes along which it was repeated.
  void (*binary_backward)(BinaryOp, int operand, const Broadcast&, const T* a, const T* b, const T* dy, T* dx, Mode);

  // Products. bias [n] is added to each row, and with Mode::kWrite residual (in the layout of C) to C, where they are
  // not null.
  void (*gemm)(const Gemm&, const T* a, const T* b, const T* bias, const T* residual, T* c, Mode);
  // With an element-wise function f (without numbers of its own) joined to one product, batch 1. `at` [m, n] is read
  // by kDerivative alone, which does not accumulate.
  void (*activated_gemm)(const Gemm&, UnaryOp f, Activated, const T* a, const T* b, const T* bias, const T* residual,
                         const T* at, T* c, Mode);
  // gemm of bf16 matrices, summed in T.
  void (*gemm_bf16)(const Gemm&, const BFloat16* a, const BFloat16* b, const T* bias, const T* residual, T* c, Mode);

  // Reductions of x [outer, axis, inner] to y [outer, inner]. Of several maxima the first receives the gradient.
  void (*reduce)(ReduceOp, std::int64_t outer, std::int64_t axis, std::int64_t inner, const T* x, T* y, Mode);
  void (*reduce_backward)(ReduceOp, std::int64_t outer, std::int64_t axis, std::int64_t inner, const T* x, const T* y,
                          const T* dy, T* dx, Mode);

  // Rows of x [rows, cols]. Where mask is not null, `layout.b` strides it over x's shape (`layout.sizes`); false
  // entries get probability 0, and a row without a true entry is all 0.
  void (*softmax)(std::int64_t rows, std::int64_t cols, const T* x, const bool* mask, const Broadcast& layout, T* y);
  void (*softmax_backward)(std::int64_t rows, std::int64_t cols, const T* y, const T* dy, T* dx, Mode);
  void (*log_softmax)(std::int64_t rows, std::int64_t cols, const T* x, T* y);
  void (*log_softmax_backward)(std::int64_t rows, std::int64_t cols, const T* y, const T* dy, T* dx, Mode);

  // loss[r] = logsumexp(x[r]) - x[r, target[r]]. In backward row r has the cotangent scale * dloss[r * dloss_stride].
  void (*cross_entropy)(std::int64_t rows, std::int64_t cols, const T* x, const std::int64_t* targets, T* loss,
                        T* logsumexp);
  void (*cross_entropy_backward)(std::int64_t rows, std::int64_t cols, const T* x, const std::int64_t* targets,
                                 const T* logsumexp, const T* dloss, std::int64_t dloss_stride, double scale, T* dx,
                                 Mode);

  // Rows of [rows, cols]. Where residual is not null, x + residual is written to `sum` and normalised. In backward,
  // where x stands for that sum, any of dx, dgamma, dbeta may be null. They may be one array: dx is finished before
  // dgamma is touched, and that before dbeta.
  void (*layer_norm)(std::int64_t rows, std::int64_t cols, double epsilon, const T* x, const T* residual,
                     const T* gamma, const T* beta, T* sum, T* y, T* mean, T* rstd);
  void (*layer_norm_backward)(std::int64_t rows, std::int64_t cols, const T* x, const T* gamma, const T* mean,
                              const T* rstd, const T* dy, T* dx, Mode dx_mode, T* dgamma, Mode dgamma_mode, T* dbeta,
                              Mode dbeta_mode);
  // y = x / max(‖x‖, ε); inverse[r] is the factor used, negative where ε was.
  void (*l2_normalize)(std::int64_t rows, std::int64_t cols, double epsilon, const T* x, T* y, T* inverse);
  void (*l2_normalize_backward)(std::int64_t rows, std::int64_t cols, const T* y, const T* inverse, const T* dy, T* dx,
                                Mode);

  // Mean and biased variance of each channel of x; there is at least one value a channel.
  void (*channel_statistics)(const Channels&, const T* x, T* mean, T* variance);
  // y = (x - mean) / √(variance + ε) · γ + β, all four by channel. In backward `own_statistics` says that mean and
  // variance are those of x, so that dx goes through them too. Any of dx, dgamma, dbeta may be null; dgamma and dbeta
  // may be one array: dgamma is finished first.
  void (*batch_norm)(const Channels&, double epsilon, const T* x, const T* gamma, const T* beta, const T* mean,
                     const T* variance, T* y);
  void (*batch_norm_backward)(const Channels&, double epsilon, bool own_statistics, const T* x, const T* gamma,
                              const T* mean, const T* variance, const T* dy, T* dx, Mode dx_mode, T* dgamma,
                              Mode dgamma_mode, T* dbeta, Mode dbeta_mode);

  // y[i] = table[index[i]]; backward sums in the order of i, so it is deterministic.
  void (*gather_rows)(std::int64_t count, std::int64_t width, const T* table, const std::int64_t* index, T* y);
  void (*gather_rows_backward)(std::int64_t count, std::int64_t width, std::int64_t table_rows,
                               const std::int64_t* index, const T* dy, T* dtable, Mode);

  // y = x · keep / (1 - p) with keep drawn by (key, sample, element); its own derivative.
  void (*dropout)(const RandomKey&, const Samples&, std::int64_t per_sample, double probability, const T* x, T* y,
                  Mode);
  // The same with one draw a sample, that of its element 0.
  void (*drop_path)(const RandomKey&, const Samples&, std::int64_t per_sample, double probability, const T* x, T* y,
                    Mode);
  // y [samples, per_sample] in [0, 1), by (key, sample, element).
  void (*sample_uniform)(const RandomKey&, const Samples&, std::int64_t per_sample, T* y);

  // Copies `count` blocks of `length` elements between strided places.
  void (*copy_blocks)(std::int64_t count, std::int64_t length, const T* x, std::int64_t x_stride, T* y,
                      std::int64_t y_stride, Mode);
  // x [outer, a, middle, b, inner] to y [outer, b, middle, a, inner].
  void (*transpose)(std::int64_t outer, std::int64_t a, std::int64_t middle, std::int64_t b, std::int64_t inner,
                    const T* x, T* y, Mode);

  // qkv [batch, tokens, 3, heads, width], valid [batch, tokens] or null, y [batch, tokens, heads, width],
  // logsumexp [batch, heads, tokens]. A query that may attend to nothing gets 0.
  void (*attention)(const Attention&, const T* qkv, const bool* valid, T* y, T* logsumexp);
  void (*attention_backward)(const Attention&, const T* qkv, const bool* valid, const T* y, const T* logsumexp,
                             const T* dy, T* dqkv, Mode);
  // The same with products of bf16, to which weights are rounded; in backward y is rounded too.
  void (*attention_bf16)(const Attention&, const BFloat16* qkv, const bool* valid, T* y, T* logsumexp);
  void (*attention_backward_bf16)(const Attention&, const BFloat16* qkv, const bool* valid, const BFloat16* y,
                                  const T* logsumexp, const BFloat16* dy, T* dqkv, Mode);

  // x [batch, channels, height, width] to rows [batch, height/patch, width/patch, channels, patch, patch]; backward
  // is the inverse permutation.
  void (*patches)(std::int64_t batch, std::int64_t channels, std::int64_t height, std::int64_t width,
                  std::int64_t patch, const T* x, T* rows);
  void (*patches_backward)(std::int64_t batch, std::int64_t channels, std::int64_t height, std::int64_t width,
                           std::int64_t patch, const T* drows, T* dx, Mode);

  // x [batch, tokens, width] to y [batch, width] over the valid tokens (all where `valid` is null). A sample without
  // a valid token gets 0. argmax [batch, width] is the token of each maximum, -1 for none.
  void (*mean_pool)(std::int64_t batch, std::int64_t tokens, std::int64_t width, const T* x, const bool* valid, T* y);
  void (*mean_pool_backward)(std::int64_t batch, std::int64_t tokens, std::int64_t width, const bool* valid,
                             const T* dy, T* dx, Mode);
  void (*max_pool)(std::int64_t batch, std::int64_t tokens, std::int64_t width, const T* x, const bool* valid, T* y,
                   std::int64_t* argmax);
  void (*max_pool_backward)(std::int64_t batch, std::int64_t tokens, std::int64_t width, const std::int64_t* argmax,
                            const T* dy, T* dx, Mode);
  // y[i] = x[i, index[i]]; backward writes 0 to the other tokens.
  void (*select_token)(std::int64_t batch, std::int64_t tokens, std::int64_t width, const std::int64_t* index,
                       const T* x, T* y);
  void (*select_token_backward)(std::int64_t batch, std::int64_t tokens, std::int64_t width, const std::int64_t* index,
                                const T* dy, T* dx, Mode);

  // logsumexp over each row and (kRowsAndColumns) column; neither is used by kSigmoid. Sums across tiles are in f64.
  double (*contrastive)(const Contrastive&, const T* a, const T* b, T scale, T bias, double* row_logsumexp,
                        double* col_logsumexp, T* workspace, double* partials);
  // `weight` is the loss's cotangent. da and db may be null and must not overlap. dscale and dbias get their summands.
  void (*contrastive_backward)(const Contrastive&, const T* a, const T* b, T scale, T bias,
                               const double* row_logsumexp, const double* col_logsumexp, double weight, T* da,
                               Mode da_mode, T* db, Mode db_mode, double* dscale, double* dbias, T* workspace,
                               double* partials);

  // Masks may be null; every document has a valid token. `best` is scratch.
  double (*maxsim)(const MaxSim&, const T* queries, const bool* query_mask, const T* documents,
                   const bool* document_mask, T scale, double* logsumexp, T* workspace, std::int32_t* best,
                   double* partials);
  void (*maxsim_backward)(const MaxSim&, const T* queries, const bool* query_mask, const T* documents,
                          const bool* document_mask, T scale, const double* logsumexp, double weight, T* dqueries,
                          Mode dqueries_mode, T* ddocuments, Mode ddocuments_mode, double* dscale, T* workspace,
                          std::int32_t* best, double* partials);

  // Optimiser steps over `count` arrays of at least one element, in place and in one pass. The gradient is multiplied by
  // gradient_scale first.
  void (*adamw)(const AdamW&, std::int64_t count, const AdamWArrays<T>*);
  void (*sgd)(const Sgd&, std::int64_t count, const SgdArrays<T>*);
  // The sum of squares over `count` arrays, added in f64; `partials` holds one element a block.
  double (*squared_norm)(std::int64_t count, const ConstArray<T>*, double* partials);
};

/// The CPU backend's table: of the most demanding variant of this build that the processor can run, or of the one that the
/// environment variable TAPECACHE_CPU names. Throws DeviceError where the processor can run none, ValueError for an unknown
/// name.
template <class T>
const KernelTable<T>& cpu_table();
template <>
const KernelTable<float>& cpu_table<float>();
template <>
const KernelTable<double>& cpu_table<double>();

/// The name of that variant: "native", "x86-64-v3", …
std::string_view cpu_variant();

/// The CUDA backend's table, whose kernels run on the given device, for this thread, until it is asked for again: of
/// `ops/cuda`, or of `ops/no_cuda`, which throws DeviceError. Decided at link time.
template <class T>
const KernelTable<T>& cuda_table(int device);
template <>
const KernelTable<float>& cuda_table<float>(int device);
template <>
const KernelTable<double>& cuda_table<double>(int device);

namespace detail {
[[noreturn]] void throw_missing(const char* op, Device device, bool is_double);
}

/// A kernel of a device's table. Throws DTypeError "softmax: no cuda kernel for float64" where it has none.
template <class T, class Function>
Function find(Function KernelTable<T>::*entry, const char* op, Device device) {
  const Function function = (device.is_cpu() ? cpu_table<T>() : cuda_table<T>(device.index)).*entry;
  if (!function) detail::throw_missing(op, device, std::is_same_v<T, double>);
  return function;
}

}  // namespace tapecache::kernels
