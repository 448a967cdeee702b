#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "tapecache/ops/cpu/cpu_kernels.h"
#include "tapecache/ops/cpu/product.h"
#include "tapecache/ops/cpu/row_math.h"

namespace tapecache::kernels::cpu {

namespace {

constexpr std::int64_t kQueryTile = 64;  // scores exist for this many queries at a time

/// One head of one sample.
template <class T>
struct Head {
  const Attention& layout;
  std::int64_t batch, head;

  std::int64_t qkv_stride() const { return 3 * layout.heads * layout.width; }
  std::int64_t output_stride() const { return layout.heads * layout.width; }
  /// A token's query (0), key (1) or value (2); those of the next token are `qkv_stride` further.
  template <class Pointer>
  Pointer part(Pointer qkv, int which, std::int64_t token = 0) const {
    return qkv + (batch * layout.tokens + token) * qkv_stride() + (which * layout.heads + head) * layout.width;
  }
  /// This head's columns of a token of y or dy.
  template <class Pointer>
  Pointer output(Pointer y, std::int64_t token) const {
    return y + (batch * layout.tokens + token) * output_stride() + head * layout.width;
  }
  Operand<T> operand(const T* qkv, int which, std::int64_t token = 0) const {
    return {part(qkv, which, token), qkv_stride(), false};
  }
  std::int64_t row_of(std::int64_t token) const { return (batch * layout.heads + head) * layout.tokens + token; }

  /// Keys that come before the end of what a query may attend to.
  std::int64_t keys_of(std::int64_t query) const { return layout.causal ? query + 1 : layout.tokens; }
};

template <class T, class Body>
void for_each_head(const Attention& layout, const Body& body) {
  const std::int64_t cost = layout.tokens * layout.tokens * layout.width;
  parallel_for(layout.batch * layout.heads, block_for(cost, 1 << 16), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) body(Head<T>{layout, i / layout.heads, i % layout.heads});
  });
}

template <class T>
Operand<T> transposed(Operand<T> a) {
  a.transposed = !a.transposed;
  return a;
}

/// Q Kᵀ of a tile of queries against the keys before `keys`, unscaled; the keys that are not valid are -Inf.
template <class T>
void masked_scores(const Head<T>& head, const T* qkv, const bool* valid, std::int64_t first, std::int64_t count,
                   std::int64_t keys, T* scores) {
  multiply(count, keys, head.layout.width, head.operand(qkv, 0, first), transposed(head.operand(qkv, 1)), scores, keys,
           false);
  if (!valid) return;
  for (std::int64_t i = 0; i < count; ++i) {
    for (std::int64_t j = 0; j < keys; ++j) {
      if (!valid[head.batch * head.layout.tokens + j]) scores[i * keys + j] = -std::numeric_limits<T>::infinity();
    }
  }
}

/// Turns scores into probabilities, all 0 where nothing is allowed, and returns the logsumexp of the scaled ones.
template <class T>
T normalize_row(T* row, std::int64_t keys, T scale) {
  const T largest = row_max(row, keys);
  const T shift = largest == -std::numeric_limits<T>::infinity() ? T{0} : largest * scale;
  T sum{0};
#pragma omp simd reduction(+ : sum)
  for (std::int64_t j = 0; j < keys; ++j) {
    row[j] = exponential(row[j] * scale - shift);
    sum += row[j];
  }
  const T factor = sum == T{0} ? T{0} : T{1} / sum;
  for (std::int64_t j = 0; j < keys; ++j) row[j] *= factor;
  return shift + std::log(sum);
}

/// Room for `count` elements of a thread's own.
template <class T>
T* scratch(std::vector<T>& buffer, std::int64_t count) {
  if (static_cast<std::int64_t>(buffer.size()) < count) buffer.resize(static_cast<std::size_t>(count));
  return buffer.data();
}

}  // namespace

template <class T>
void attention(const Attention& layout, const T* qkv, const bool* valid, T* y, T* logsumexp) {
  const T scale = static_cast<T>(layout.scale);
  for_each_head<T>(layout, [&](const Head<T>& head) {
    thread_local std::vector<T> buffer;
    T* scores = scratch(buffer, kQueryTile * layout.tokens);
    for (std::int64_t first = 0; first < layout.tokens; first += kQueryTile) {
      const std::int64_t count = std::min(kQueryTile, layout.tokens - first);
      const std::int64_t keys = head.keys_of(first + count - 1);
      masked_scores(head, qkv, valid, first, count, keys, scores);
      for (std::int64_t i = 0; i < count; ++i) {
        T* row = scores + i * keys;
        const std::int64_t own = head.keys_of(first + i);
        logsumexp[head.row_of(first + i)] = normalize_row(row, own, scale);
        std::fill(row + own, row + keys, T{0});
      }
      multiply(count, layout.width, keys, {scores, keys}, head.operand(qkv, 2), head.output(y, first),
               head.output_stride(), false);
    }
  });
}

template <class T>
void attention_backward(const Attention& layout, const T* qkv, const bool* valid, const T* y, const T* logsumexp,
                        const T* dy, T* dqkv, Mode mode) {
  const T scale = static_cast<T>(layout.scale);
  const bool accumulate = mode == Mode::kAccumulate;
  for_each_head<T>(layout, [&](const Head<T>& head) {
    thread_local std::vector<T> buffer;
    T* p = scratch(buffer, 2 * kQueryTile * layout.tokens);
    T* ds = p + kQueryTile * layout.tokens;
    const std::int64_t stride = head.qkv_stride(), width = layout.width;
    std::int64_t keys_before = 0;  // that earlier tiles have given a gradient
    for (std::int64_t first = 0; first < layout.tokens; first += kQueryTile) {
      const std::int64_t count = std::min(kQueryTile, layout.tokens - first);
      const std::int64_t keys = head.keys_of(first + count - 1);
      const Operand<T> gradient{head.output(dy, first), head.output_stride()};
      masked_scores(head, qkv, valid, first, count, keys, p);
      multiply(count, keys, width, gradient, transposed(head.operand(qkv, 2)), ds, keys, false);
      for (std::int64_t i = 0; i < count; ++i) {
        const std::int64_t own = head.keys_of(first + i);
        const T normalizer = logsumexp[head.row_of(first + i)];
        const bool nothing = normalizer == -std::numeric_limits<T>::infinity();
        const T *out = head.output(y, first + i), *dout = head.output(dy, first + i);
        T dot{0};
#pragma omp simd reduction(+ : dot)
        for (std::int64_t d = 0; d < width; ++d) dot += dout[d] * out[d];
        T *p_row = p + i * keys, *ds_row = ds + i * keys;
        for (std::int64_t j = 0; j < own; ++j) {
          p_row[j] = nothing ? T{0} : exponential(p_row[j] * scale - normalizer);
          ds_row[j] = p_row[j] * (ds_row[j] - dot) * scale;
        }
        std::fill(p_row + own, p_row + keys, T{0});
        std::fill(ds_row + own, ds_row + keys, T{0});
      }
      multiply(count, width, keys, {ds, keys}, head.operand(qkv, 1), head.part(dqkv, 0, first), stride, accumulate);
      // Keys that no earlier tile has reached are written where the others are added to.
      const auto to_keys = [&](const T* weights, const Operand<T>& right, int which) {
        const auto rows = [&](std::int64_t begin, std::int64_t end, bool add) {
          multiply(end - begin, width, count, {weights + begin, keys, true}, right, head.part(dqkv, which, begin),
                   stride, add);
        };
        rows(0, keys_before, true);
        rows(keys_before, keys, accumulate);
      };
      to_keys(ds, head.operand(qkv, 0, first), 1);
      to_keys(p, gradient, 2);
      keys_before = keys;
    }
  });
}

template void attention(const Attention&, const float*, const bool*, float*, float*);
template void attention(const Attention&, const double*, const bool*, double*, double*);
template void attention_backward(const Attention&, const float*, const bool*, const float*, const float*, const float*,
                                 float*, Mode);
template void attention_backward(const Attention&, const double*, const bool*, const double*, const double*,
                                 const double*, double*, Mode);

}  // namespace tapecache::kernels::cpu
