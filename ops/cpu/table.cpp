#include "tapecache/ops/cpu/cpu_kernels.h"
#include "tapecache/ops/cpu/variant.h"

namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT {

namespace {

template <class T>
constexpr KernelTable<T> kTable{
    .unary = unary<T>,
    .unary_backward = unary_backward<T>,
    .binary = binary<T>,
    .binary_backward = binary_backward<T>,
    .gemm = gemm<T>,
    .activated_gemm = activated_gemm<T>,
    .packed_elements = packed_elements<T>,
    .pack_factor = pack_factor<T>,
    .reduce = reduce<T>,
    .reduce_backward = reduce_backward<T>,
    .sum_rows = sum_rows<T>,
    .softmax = softmax<T>,
    .softmax_backward = softmax_backward<T>,
    .log_softmax = log_softmax<T>,
    .log_softmax_backward = log_softmax_backward<T>,
    .cross_entropy = cross_entropy<T>,
    .cross_entropy_backward = cross_entropy_backward<T>,
    .layer_norm = layer_norm<T>,
    .layer_norm_backward = layer_norm_backward<T>,
    .l2_normalize = l2_normalize<T>,
    .l2_normalize_backward = l2_normalize_backward<T>,
    .channel_statistics = channel_statistics<T>,
    .batch_norm = batch_norm<T>,
    .batch_norm_backward = batch_norm_backward<T>,
    .gather_rows = gather_rows<T>,
    .gather_rows_backward = gather_rows_backward<T>,
    .dropout = dropout<T>,
    .drop_path = drop_path<T>,
    .sample_uniform = sample_uniform<T>,
    .copy_blocks = copy_blocks<T>,
    .transpose = transpose<T>,
    .attention = attention<T>,
    .attention_backward = attention_backward<T>,
    .patches = patches<T>,
    .patches_backward = patches_backward<T>,
    .mean_pool = mean_pool<T>,
    .mean_pool_backward = mean_pool_backward<T>,
    .max_pool = max_pool<T>,
    .max_pool_backward = max_pool_backward<T>,
    .last_token = last_token<T>,
    .first_token = first_token<T>,
    .token_positions = token_positions<T>,
    .select_token = select_token<T>,
    .select_token_backward = select_token_backward<T>,
    .contrastive_tile = contrastive_tile<T>,
    .contrastive_workspace = contrastive_workspace<T>,
    .contrastive = contrastive<T>,
    .contrastive_backward = contrastive_backward<T>,
    .maxsim_tile = maxsim_tile<T>,
    .maxsim = maxsim<T>,
    .maxsim_backward = maxsim_backward<T>,
    .positive_pairs = positive_pairs<T>,
    .false_negatives = false_negatives<T>,
    .excluded_pairs = excluded_pairs<T>,
    .equal_rows = equal_rows<T>,
    .adamw = adamw<T>,
    .sgd = sgd<T>,
    .squared_norm = squared_norm<T>,
    .count_non_finite = count_non_finite<T>,
    .clip = clip<T>,
};

template <class Low>
constexpr KernelTable<Low> kLowTable{
    .round = low_round<Low>,
    .round_and_sum_rows = low_round_and_sum_rows<Low>,
    .unary = low_unary<Low>,
    .unary_backward = low_unary_backward<Low, Low>,
    .unary_backward_to_f32 = low_unary_backward<Low, float>,
    .gemm = low_gemm<Low>,
    .gemm_rounded = low_gemm_rounded<Low>,
    .derivative_gemm = low_derivative_gemm<Low>,
    .parameter_gradients = low_parameter_gradients<Low>,
    .sum_rows = sum_rows<Low>,
    .layer_norm = low_layer_norm<Low>,
    .patches = patches<Low>,
    .attention = low_attention<Low>,
    .attention_backward = low_attention_backward<Low>,
};

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512CD__) && defined(__AVX512DQ__) && \
    defined(__AVX512VL__)
constexpr bool kAvx512 = true;
#else
constexpr bool kAvx512 = false;
#endif
#if defined(__AVX2__) && defined(__FMA__) && defined(__BMI2__)
constexpr bool kAvx2 = true;
#else
constexpr bool kAvx2 = false;
#endif
#if defined(__SSE4_2__)
constexpr bool kSse42 = true;
#else
constexpr bool kSse42 = false;
#endif

}  // namespace

extern const Variant kVariant;
const Variant kVariant{TAPECACHE_CPU_NAME, {kSse42, kAvx2, kAvx512}, &kTable<float>, &kTable<double>,
                       &kLowTable<BFloat16>, &kLowTable<Float16>};

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT
