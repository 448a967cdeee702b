#pragma once

#include <cstdint>
#include <string>

#include "tapecache/core/dtype.h"
#include "tapecache/ops/kernels/attention.h"

/// Attention by cuDNN's fused kernels, for devices from sm_80 on. A build without cuDNN's headers has stand-ins that
/// decline.
namespace tapecache::kernels::cuda {

/// As `low_attention` of the kernel table. Returns false, having done nothing, where cuDNN is
/// not there or has no plan for it, and where there is a mask: its own masks are of lengths.
template <class Low>
bool cudnn_attention(const Attention&, const Low* qkv, const bool* valid, Low* y, float* logsumexp);

/// As `low_attention_backward`, with the same bits each time. Declines to accumulate too; where it returns false, dqkv
/// may have been written to. The price of the same bits is a workspace that grows with the square of tokens: samples
/// are taken in pieces, so that it has at most so many bytes, or what one sample takes.
template <class Low>
bool cudnn_attention_backward(const Attention&, const Low* qkv, const bool* valid, const Low* y, const float* logsumexp,
                              const Low* dy, Low* dqkv, Mode mode, std::int64_t most_workspace = 256 << 20);

/// The version that is used, or "none: " and why not.
std::string cudnn_version();

/// Bytes of workspace of the plan that cuDNN has for a device which need not be there, described as in
/// CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION; -1 where it has none.
template <class Low>
std::int64_t cudnn_attention_workspace(const Attention&, bool backward, const std::string& device);

}  // namespace tapecache::kernels::cuda
