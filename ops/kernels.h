#pragma once

#include <cstdint>
#include <string_view>

#include "tapecache/core/device.h"
#include "tapecache/core/dtype.h"
#include "tapecache/core/philox.h"
#include "tapecache/ops/kernel_arguments.h"

/// The contract between ops and backends: kernels are plain functions over pointers and sizes, one table of function
/// pointers per backend and element type. All arrays are contiguous and row-major.
namespace tapecache::kernels {

template <class T>
struct KernelTable {
  // Element-wise. `saved` is the output or the input, by derivative_uses_output.
  void (*unary)(UnaryOp, double a, double b, std::int64_t n, const T* x, T* y);
  void (*unary_backward)(UnaryOp, double a, double b, std::int64_t n, const T* saved, const T* dy, T* dx, Mode);
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
  // op(B) of a Gemm as its products with many A take it fastest, in packed_elements(n, k) elements: their sums are the same. Null
  // where a backend packs nothing.
  std::int64_t (*packed_elements)(std::int64_t n, std::int64_t k);
  void (*pack_factor)(const Gemm&, const T* b, T* packed);

  // Reductions of x [outer, axis, inner] to y [outer, inner]. Of several maxima the first receives the gradient.
  void (*reduce)(ReduceOp, std::int64_t outer, std::int64_t axis, std::int64_t inner, const T* x, T* y, Mode);
  void (*reduce_backward)(ReduceOp, std::int64_t outer, std::int64_t axis, std::int64_t inner, const T* x, const T* y,
                          const T* dy, T* dx, Mode);

  // y = Σ over the rows of x [rows, cols], which begin `pitch` elements apart.
  void (*sum_rows)(std::int64_t rows, std::int64_t cols, std::int64_t pitch, const T* x, T* y, Mode);

  // Rows of x [rows, cols]. Where mask is not null, `layout.b` strides it over x's shape (`layout.sizes`); false
  // entries get probability 0, and a row without a true entry is all 0.
  void (*softmax)(std::int64_t rows, std::int64_t cols, const T* x, const bool* mask, const Broadcast& layout, T* y);
  void (*softmax_backward)(std::int64_t rows, std::int64_t cols, const T* y, const T* dy, T* dx, Mode);
  void (*log_softmax)(std::int64_t rows, std::int64_t cols, const T* x, T* y);
  void (*log_softmax_backward)(std::int64_t rows, std::int64_t cols, const T* y, const T* dy, T* dx, Mode);

  // loss[r] = logsumexp(x[r]) - x[r, target[r]]; logsumexp [rows, 2] is in two parts, whose sum it is. In backward row r has
  // the cotangent scale * dloss[r * dloss_stride].
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
  // logsumexp [batch, heads, tokens, 2], in which the scores' is scale · the first + the second. A query that may attend to
  // nothing gets 0.
  void (*attention)(const Attention&, const T* qkv, const bool* valid, T* y, T* logsumexp);
  void (*attention_backward)(const Attention&, const T* qkv, const bool* valid, const T* y, const T* logsumexp,
                             const T* dy, T* dqkv, Mode);

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
  // index[i] is the last valid token of sample i, 0 where there is none.
  void (*last_token)(std::int64_t batch, std::int64_t tokens, const bool* valid, std::int64_t* index);
  // index[i] is the first token of sample i that is valid (any where `valid` is null) and, where `ids` is not null, has this
  // id; -1 where there is none.
  void (*first_token)(std::int64_t batch, std::int64_t tokens, const bool* valid, const std::int64_t* ids, std::int64_t id,
                      std::int64_t* index);
  // Positions [batch, tokens] of the valid tokens, counted from `first`; first - 1 for padding.
  void (*token_positions)(std::int64_t batch, std::int64_t tokens, std::int64_t first, const bool* valid,
                          std::int64_t* position);
  // y[i] = x[i, index[i]]; backward writes 0 to the other tokens.
  void (*select_token)(std::int64_t batch, std::int64_t tokens, std::int64_t width, const std::int64_t* index,
                       const T* x, T* y);
  void (*select_token_backward)(std::int64_t batch, std::int64_t tokens, std::int64_t width, const std::int64_t* index,
                                const T* dy, T* dx, Mode);

  // scale, bias, loss and the gradients of them are one element each. logsumexp over each row and (kRowsAndColumns) column;
  // neither is used by kSigmoid. Sums across tiles are in f64. The device says which tiles it works best with where the caller
  // does not, and how many elements its workspace has.
  TileSizes (*contrastive_tile)();
  std::int64_t (*contrastive_workspace)(const Contrastive&);
  void (*contrastive)(const Contrastive&, const T* a, const T* b, const T* scale, const T* bias, double* row_logsumexp,
                      double* col_logsumexp, T* loss, T* workspace, double* partials);
  // da and db may be null and must not overlap. dscale and dbias are written.
  void (*contrastive_backward)(const Contrastive&, const T* a, const T* b, const T* scale, const T* bias,
                               const double* row_logsumexp, const double* col_logsumexp, const T* dloss, T* da,
                               Mode da_mode, T* db, Mode db_mode, T* dscale, T* dbias, T* workspace, double* partials);

  // Masks may be null; every document has a valid token. `best` is scratch. Of the sizes that maxsim_tile is told, those of tiles
  // do not count.
  TileSizes (*maxsim_tile)(const MaxSim&);
  void (*maxsim)(const MaxSim&, const T* queries, const bool* query_mask, const T* documents, const bool* document_mask,
                 const T* scale, double* logsumexp, T* loss, T* workspace, std::int32_t* best, double* partials);
  void (*maxsim_backward)(const MaxSim&, const T* queries, const bool* query_mask, const T* documents,
                          const bool* document_mask, const T* scale, const double* logsumexp, const T* dloss, T* dqueries,
                          Mode dqueries_mode, T* ddocuments, Mode ddocuments_mode, T* dscale, T* workspace,
                          std::int32_t* best, double* partials);

  // pairs [n, n] has 1 / (A · |P(i)|) at the others of row i's label, P(i), where A rows have any, and 0 elsewhere. `any` is
  // one element: whether there is such a row.
  void (*positive_pairs)(std::int64_t n, const std::int64_t* labels, T* pairs, bool* any);
  // mask [rows, cols] has `excluded` at the false negatives and 0 elsewhere. A similarity that is NaN is of none.
  void (*false_negatives)(const FalseNegatives&, const double* similarities, const double* positives, T excluded, T* mask);

  // mask [queries, targets] has 1 at the pairs that are left out and 0 elsewhere.
  void (*excluded_pairs)(const EqualPairs&, std::int64_t queries, std::int64_t targets, T* mask);
  // ids[i] is the first of the rows [rows, tokens, width] that has the bits of row i at its valid tokens, and the same tokens
  // valid. `valid` may be null.
  void (*equal_rows)(std::int64_t rows, std::int64_t tokens, std::int64_t width, const T* x, const bool* valid,
                     std::int64_t* ids);

  // Optimiser steps over `count` arrays of at least one element, in place and in one pass. The gradient is multiplied by
  // gradient_scale first.
  void (*adamw)(const AdamW&, std::int64_t count, const AdamWArrays<T>*);
  void (*sgd)(const Sgd&, std::int64_t count, const SgdArrays<T>*);
  // The sum of squares over `count` arrays, and the number of elements that are not finite, in f64; `partials` holds one
  // element a block.
  void (*squared_norm)(std::int64_t count, const ConstArray<T>*, double* partials, double* sum, Mode);
  void (*count_non_finite)(std::int64_t count, const ConstArray<T>*, double* partials, double* number, Mode);
  // Multiplies the arrays by max_norm / norm where that is below 1, the norm being the root of squared_norm.
  void (*clip)(std::int64_t count, const MutableArray<T>*, const double* squared_norm, double max_norm);
};

/// What there is over bf16 and f16. Sums are taken in f32, and so is everything else before it is rounded. Functions are those
/// without numbers of their own.
template <class Low>
  requires kLowPrecision<Low>
struct KernelTable<Low> {
  void (*round)(std::int64_t n, const float* x, Low* y);
  // The same of rows [rows, cols]; and sums += their sum, or =.
  void (*round_and_sum_rows)(std::int64_t rows, std::int64_t cols, const float* x, Low* y, float* sums, Mode);
  void (*unary)(UnaryOp, std::int64_t n, const Low* x, Low* y);
  // dx = dy f'(x); dx may be dy.
  void (*unary_backward)(UnaryOp, std::int64_t n, const Low* x, const Low* dy, Low* dx, Mode);
  void (*unary_backward_to_f32)(UnaryOp, std::int64_t n, const Low* x, const float* dy, float* dx, Mode);

  // As KernelTable<float>::gemm; and without a residual, rounded.
  void (*gemm)(const Gemm&, const Low* a, const Low* b, const float* bias, const float* residual, float* c, Mode);
  void (*gemm_rounded)(const Gemm&, const Low* a, const Low* b, const float* bias, Low* c, Mode);
  // C = op(A) op(B) f'(at) for `at` in the layout of C, rounded; and value = f(at), unless that is null. Batch 1, and C has no
  // gaps between its rows.
  void (*derivative_gemm)(const Gemm&, UnaryOp f, const Low* a, const Low* b, const Low* at, Low* c, Low* value);
  // dW = dYᵀ X and db = Σ over the rows of dY, the Gemm being that of dW. Batch 1.
  void (*parameter_gradients)(const Gemm&, const Low* dy, const Low* x, float* dw, Mode dw_mode, float* db, Mode db_mode);

  // As KernelTable<float>::sum_rows.
  void (*sum_rows)(std::int64_t rows, std::int64_t cols, std::int64_t pitch, const Low* x, float* y, Mode);
  // Of f32 rows [rows, cols].
  void (*layer_norm)(std::int64_t rows, std::int64_t cols, double epsilon, const float* x, const float* gamma,
                     const float* beta, Low* y, float* mean, float* rstd);
  // Of f32 images.
  void (*patches)(std::int64_t batch, std::int64_t channels, std::int64_t height, std::int64_t width, std::int64_t patch,
                  const float* x, Low* rows);

  // As KernelTable<float>'s, with weights rounded before they meet another matrix. A device may fill less of logsumexp, in an
  // order of its own.
  void (*attention)(const Attention&, const Low* qkv, const bool* valid, Low* y, float* logsumexp);
  void (*attention_backward)(const Attention&, const Low* qkv, const bool* valid, const Low* y, const float* logsumexp,
                             const Low* dy, Low* dqkv, Mode);
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
template <>
const KernelTable<BFloat16>& cpu_table<BFloat16>();
template <>
const KernelTable<Float16>& cpu_table<Float16>();

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
template <>
const KernelTable<BFloat16>& cuda_table<BFloat16>(int device);
template <>
const KernelTable<Float16>& cuda_table<Float16>(int device);

namespace detail {
[[noreturn]] void throw_missing(const char* op, Device device, DType dtype);
}

/// A kernel of a device's table. Throws DTypeError "softmax: no cuda kernel for float64" where it has none.
template <class T, class Function>
Function find(Function KernelTable<T>::*entry, const char* op, Device device) {
  const Function function = (device.is_cpu() ? cpu_table<T>() : cuda_table<T>(device.index)).*entry;
  if (!function) detail::throw_missing(op, device, dtype_of<T>());
  return function;
}

}  // namespace tapecache::kernels
