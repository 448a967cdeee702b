#include "tapecache/ops/cpu/cpu_kernels.h"

namespace tapecache::kernels {

namespace {

/// Only f32 has kernels over bf16.
template <class T, class Function>
constexpr auto for_float32(Function function) {
  if constexpr (std::is_same_v<T, float>) return function;
  else return nullptr;
}

template <class T>
constexpr KernelTable<T> kTable{
    .unary = cpu::unary<T>,
    .unary_backward = cpu::unary_backward<T>,
    .unary_bf16 = for_float32<T>(cpu::unary_bf16),
    .binary = cpu::binary<T>,
    .binary_backward = cpu::binary_backward<T>,
    .gemm = cpu::gemm<T>,
    .activated_gemm = cpu::activated_gemm<T>,
    .gemm_bf16 = for_float32<T>(cpu::gemm_bf16),
    .reduce = cpu::reduce<T>,
    .reduce_backward = cpu::reduce_backward<T>,
    .softmax = cpu::softmax<T>,
    .softmax_backward = cpu::softmax_backward<T>,
    .log_softmax = cpu::log_softmax<T>,
    .log_softmax_backward = cpu::log_softmax_backward<T>,
    .cross_entropy = cpu::cross_entropy<T>,
    .cross_entropy_backward = cpu::cross_entropy_backward<T>,
    .layer_norm = cpu::layer_norm<T>,
    .layer_norm_backward = cpu::layer_norm_backward<T>,
    .l2_normalize = cpu::l2_normalize<T>,
    .l2_normalize_backward = cpu::l2_normalize_backward<T>,
    .channel_statistics = cpu::channel_statistics<T>,
    .batch_norm = cpu::batch_norm<T>,
    .batch_norm_backward = cpu::batch_norm_backward<T>,
    .gather_rows = cpu::gather_rows<T>,
    .gather_rows_backward = cpu::gather_rows_backward<T>,
    .dropout = cpu::dropout<T>,
    .drop_path = cpu::drop_path<T>,
    .sample_uniform = cpu::sample_uniform<T>,
    .copy_blocks = cpu::copy_blocks<T>,
    .transpose = cpu::transpose<T>,
    .attention = cpu::attention<T>,
    .attention_backward = cpu::attention_backward<T>,
    .attention_bf16 = for_float32<T>(cpu::attention_bf16),
    .attention_backward_bf16 = for_float32<T>(cpu::attention_backward_bf16),
    .patches = cpu::patches<T>,
    .patches_backward = cpu::patches_backward<T>,
    .mean_pool = cpu::mean_pool<T>,
    .mean_pool_backward = cpu::mean_pool_backward<T>,
    .max_pool = cpu::max_pool<T>,
    .max_pool_backward = cpu::max_pool_backward<T>,
    .select_token = cpu::select_token<T>,
    .select_token_backward = cpu::select_token_backward<T>,
    .contrastive = cpu::contrastive<T>,
    .contrastive_backward = cpu::contrastive_backward<T>,
    .maxsim = cpu::maxsim<T>,
    .maxsim_backward = cpu::maxsim_backward<T>,
    .adamw = cpu::adamw<T>,
    .sgd = cpu::sgd<T>,
    .squared_norm = cpu::squared_norm<T>,
};

}  // namespace

template <>
const KernelTable<float>& cpu_table<float>() {
  return kTable<float>;
}

template <>
const KernelTable<double>& cpu_table<double>() {
  return kTable<double>;
}

}  // namespace tapecache::kernels
