#include "tapecache/ops/cpu/attention.h"

namespace tapecache::kernels::cpu {

template <class T>
void attention(const Attention& layout, const T* qkv, const bool* valid, T* y, T* logsumexp) {
  attention_tiles(layout, qkv, valid, y, logsumexp);
}

template <class T>
void attention_backward(const Attention& layout, const T* qkv, const bool* valid, const T* y, const T* logsumexp,
                        const T* dy, T* dqkv, Mode mode) {
  attention_tiles_backward(layout, qkv, valid, y, logsumexp, dy, dqkv, mode);
}

template void attention(const Attention&, const float*, const bool*, float*, float*);
template void attention(const Attention&, const double*, const bool*, double*, double*);
template void attention_backward(const Attention&, const float*, const bool*, const float*, const float*, const float*,
                                 float*, Mode);
template void attention_backward(const Attention&, const double*, const bool*, const double*, const double*,
                                 const double*, double*, Mode);

}  // namespace tapecache::kernels::cpu
