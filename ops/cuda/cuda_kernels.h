#pragma once

#include <cstdint>

#include "tapecache/ops/kernels.h"

/// The CUDA kernels, as `kernels.h` describes them; each family has a file of its own. Pointers are to memory of the current
/// device, but for the arrays of structures of the updates. Sums are taken in an order that depends on the sizes alone.
namespace tapecache::kernels::cuda {

template <class T>
void unary(UnaryOp, double a, double b, std::int64_t n, const T* x, T* y);
template <class T>
void unary_backward(UnaryOp, double a, double b, std::int64_t n, const T* saved, const T* dy, T* dx, Mode);
void to_bf16(std::int64_t n, const float* x, BFloat16* y);
void unary_bf16(UnaryOp, std::int64_t n, const BFloat16* x, BFloat16* y);
void unary_backward_bf16(UnaryOp, std::int64_t n, const BFloat16* x, const float* dy, float* dx, Mode);
template <class T>
void binary(BinaryOp, const Broadcast&, const T* a, const T* b, T* y);
template <class T>
void binary_backward(BinaryOp, int operand, const Broadcast&, const T* a, const T* b, const T* dy, T* dx, Mode);
template <class T>
void gemm(const Gemm&, const T* a, const T* b, const T* bias, const T* residual, T* c, Mode);
template <class T>
void activated_gemm(const Gemm&, UnaryOp, Activated, const T* a, const T* b, const T* bias, const T* residual,
                    const T* at, T* c, Mode);
void gemm_bf16(const Gemm&, const BFloat16* a, const BFloat16* b, const float* bias, const float* residual, float* c,
               Mode);
template <class T>
void reduce(ReduceOp, std::int64_t outer, std::int64_t axis, std::int64_t inner, const T* x, T* y, Mode);
template <class T>
void reduce_backward(ReduceOp, std::int64_t outer, std::int64_t axis, std::int64_t inner, const T* x, const T* y,
                     const T* dy, T* dx, Mode);
template <class T>
void softmax(std::int64_t rows, std::int64_t cols, const T* x, const bool* mask, const Broadcast&, T* y);
template <class T>
void softmax_backward(std::int64_t rows, std::int64_t cols, const T* y, const T* dy, T* dx, Mode);
template <class T>
void log_softmax(std::int64_t rows, std::int64_t cols, const T* x, T* y);
template <class T>
void log_softmax_backward(std::int64_t rows, std::int64_t cols, const T* y, const T* dy, T* dx, Mode);
template <class T>
void cross_entropy(std::int64_t rows, std::int64_t cols, const T* x, const std::int64_t* targets, T* loss,
                   T* logsumexp);
template <class T>
void cross_entropy_backward(std::int64_t rows, std::int64_t cols, const T* x, const std::int64_t* targets,
                            const T* logsumexp, const T* dloss, std::int64_t dloss_stride, double scale, T* dx, Mode);
template <class T>
void layer_norm(std::int64_t rows, std::int64_t cols, double epsilon, const T* x, const T* residual, const T* gamma,
                const T* beta, T* sum, T* y, T* mean, T* rstd);
template <class T>
void layer_norm_backward(std::int64_t rows, std::int64_t cols, const T* x, const T* gamma, const T* mean,
                         const T* rstd, const T* dy, T* dx, Mode dx_mode, T* dgamma, Mode dgamma_mode, T* dbeta,
                         Mode dbeta_mode);
template <class T>
void l2_normalize(std::int64_t rows, std::int64_t cols, double epsilon, const T* x, T* y, T* inverse);
template <class T>
void l2_normalize_backward(std::int64_t rows, std::int64_t cols, const T* y, const T* inverse, const T* dy, T* dx,
                           Mode);
template <class T>
void channel_statistics(const Channels&, const T* x, T* mean, T* variance);
template <class T>
void batch_norm(const Channels&, double epsilon, const T* x, const T* gamma, const T* beta, const T* mean,
                const T* variance, T* y);
template <class T>
void batch_norm_backward(const Channels&, double epsilon, bool own_statistics, const T* x, const T* gamma,
                         const T* mean, const T* variance, const T* dy, T* dx, Mode dx_mode, T* dgamma,
                         Mode dgamma_mode, T* dbeta, Mode dbeta_mode);
template <class T>
void gather_rows(std::int64_t count, std::int64_t width, const T* table, const std::int64_t* index, T* y);
template <class T>
void gather_rows_backward(std::int64_t count, std::int64_t width, std::int64_t table_rows, const std::int64_t* index,
                          const T* dy, T* dtable, Mode);
template <class T>
void dropout(const RandomKey&, const Samples&, std::int64_t per_sample, double probability, const T* x, T* y, Mode);
template <class T>
void drop_path(const RandomKey&, const Samples&, std::int64_t per_sample, double probability, const T* x, T* y, Mode);
template <class T>
void sample_uniform(const RandomKey&, const Samples&, std::int64_t per_sample, T* y);
template <class T>
void copy_blocks(std::int64_t count, std::int64_t length, const T* x, std::int64_t x_stride, T* y,
                 std::int64_t y_stride, Mode);
template <class T>
void transpose(std::int64_t outer, std::int64_t a, std::int64_t middle, std::int64_t b, std::int64_t inner,
               const T* x, T* y, Mode);
template <class T>
void attention(const Attention&, const T* qkv, const bool* valid, T* y, T* logsumexp);
template <class T>
void attention_backward(const Attention&, const T* qkv, const bool* valid, const T* y, const T* logsumexp,
                        const T* dy, T* dqkv, Mode);
void attention_bf16(const Attention&, const BFloat16* qkv, const bool* valid, float* y, float* logsumexp);
void attention_backward_bf16(const Attention&, const BFloat16* qkv, const bool* valid, const BFloat16* y,
                             const float* logsumexp, const BFloat16* dy, float* dqkv, Mode);
template <class T>
void patches(std::int64_t batch, std::int64_t channels, std::int64_t height, std::int64_t width, std::int64_t patch,
             const T* x, T* rows);
template <class T>
void patches_backward(std::int64_t batch, std::int64_t channels, std::int64_t height, std::int64_t width,
                      std::int64_t patch, const T* drows, T* dx, Mode);
template <class T>
void mean_pool(std::int64_t batch, std::int64_t tokens, std::int64_t width, const T* x, const bool* valid, T* y);
template <class T>
void mean_pool_backward(std::int64_t batch, std::int64_t tokens, std::int64_t width, const bool* valid, const T* dy,
                        T* dx, Mode);
template <class T>
void max_pool(std::int64_t batch, std::int64_t tokens, std::int64_t width, const T* x, const bool* valid, T* y,
              std::int64_t* argmax);
template <class T>
void max_pool_backward(std::int64_t batch, std::int64_t tokens, std::int64_t width, const std::int64_t* argmax,
                       const T* dy, T* dx, Mode);
template <class T>
void select_token(std::int64_t batch, std::int64_t tokens, std::int64_t width, const std::int64_t* index, const T* x,
                  T* y);
template <class T>
void select_token_backward(std::int64_t batch, std::int64_t tokens, std::int64_t width, const std::int64_t* index,
                           const T* dy, T* dx, Mode);
template <class T>
double contrastive(const Contrastive&, const T* a, const T* b, T scale, T bias, double* row_logsumexp,
                   double* col_logsumexp, T* workspace, double* partials);
template <class T>
void contrastive_backward(const Contrastive&, const T* a, const T* b, T scale, T bias, const double* row_logsumexp,
                          const double* col_logsumexp, double weight, T* da, Mode da_mode, T* db, Mode db_mode,
                          double* dscale, double* dbias, T* workspace, double* partials);
template <class T>
double maxsim(const MaxSim&, const T* queries, const bool* query_mask, const T* documents, const bool* document_mask,
              T scale, double* logsumexp, T* workspace, std::int32_t* best, double* partials);
template <class T>
void maxsim_backward(const MaxSim&, const T* queries, const bool* query_mask, const T* documents,
                     const bool* document_mask, T scale, const double* logsumexp, double weight, T* dqueries,
                     Mode dqueries_mode, T* ddocuments, Mode ddocuments_mode, double* dscale, T* workspace,
                     std::int32_t* best, double* partials);
template <class T>
void adamw(const AdamW&, std::int64_t count, const AdamWArrays<T>*);
template <class T>
void sgd(const Sgd&, std::int64_t count, const SgdArrays<T>*);
template <class T>
double squared_norm(std::int64_t count, const ConstArray<T>*, double* partials);

}  // namespace tapecache::kernels::cuda
