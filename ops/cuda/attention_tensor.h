#pragma once

#include "tapecache/ops/kernels/attention.h"

namespace tapecache::kernels::cuda {

/// Attention by tensor cores, as `AttentionKernels<Low>::attention` describes it, for widths of a multiple of 16 up to
/// 128 in arrays that begin at multiples of 16 bytes. False, and nothing done, where it is not of that kind.
template <class Low>
bool tensor_attention(const Attention&, const Low* qkv, const bool* valid, Low* y, float* logsumexp);
template <class Low>
bool tensor_attention_backward(const Attention&, const Low* qkv, const bool* valid, const Low* y,
                               const float* logsumexp, const Low* dy, Low* dqkv, Mode);

}  // namespace tapecache::kernels::cuda
