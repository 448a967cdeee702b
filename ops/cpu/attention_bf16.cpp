#include "tapecache/ops/cpu/attention.h"

namespace tapecache::kernels::cpu {

void attention_bf16(const Attention& layout, const BFloat16* qkv, const bool* valid, float* y, float* logsumexp) {
  attention_tiles(layout, qkv, valid, y, logsumexp);
}

void attention_backward_bf16(const Attention& layout, const BFloat16* qkv, const bool* valid, const float* y,
                             const float* logsumexp, const BFloat16* dy, float* dqkv, Mode mode) {
  attention_tiles_backward(layout, qkv, valid, y, logsumexp, dy, dqkv, mode);
}

}  // namespace tapecache::kernels::cpu
