#include "tapecache/ops/cuda/cudnn_attention.h"

namespace tapecache::kernels::cuda {

template <class Low>
bool cudnn_attention(const Attention&, const Low*, const bool*, Low*, float*) {
  return false;
}

template <class Low>
bool cudnn_attention_backward(const Attention&, const Low*, const bool*, const Low*, const float*, const Low*, Low*,
                              Mode, std::int64_t) {
  return false;
}

std::string cudnn_version() { return "none: this build has no cuDNN"; }

template <class Low>
std::int64_t cudnn_attention_workspace(const Attention&, bool, const std::string&) {
  return -1;
}

template bool cudnn_attention(const Attention&, const BFloat16*, const bool*, BFloat16*, float*);
template bool cudnn_attention(const Attention&, const Float16*, const bool*, Float16*, float*);
template bool cudnn_attention_backward(const Attention&, const BFloat16*, const bool*, const BFloat16*, const float*,
                                       const BFloat16*, BFloat16*, Mode, std::int64_t);
template bool cudnn_attention_backward(const Attention&, const Float16*, const bool*, const Float16*, const float*,
                                       const Float16*, Float16*, Mode, std::int64_t);
template std::int64_t cudnn_attention_workspace<BFloat16>(const Attention&, bool, const std::string&);
template std::int64_t cudnn_attention_workspace<Float16>(const Attention&, bool, const std::string&);

}  // namespace tapecache::kernels::cuda
