#define EIGEN_DONT_PARALLELIZE
#include <Eigen/Core>

#include <cmath>
#include <limits>
#include <vector>

#include "tapecache/ops/cpu/cpu_kernels.h"
#include "tapecache/ops/cpu/row_math.h"

namespace tapecache::kernels::cpu {

namespace {

constexpr std::int64_t kQueryTile = 64;  // scores exist for this many queries at a time

template <class T>
using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class T>
using Strided = Eigen::Map<Matrix<T>, 0, Eigen::OuterStride<>>;
template <class T>
using ConstStrided = Eigen::Map<const Matrix<T>, 0, Eigen::OuterStride<>>;

/// One head of one sample.
template <class T>
struct Head {
  const Attention& layout;
  std::int64_t batch, head;

  std::int64_t stride() const { return 3 * layout.heads * layout.width; }
  /// Queries (0), keys (1) or values (2) as [tokens, width].
  template <class Pointer>
  auto part(Pointer qkv, int which) const {
    using View = std::conditional_t<std::is_const_v<std::remove_pointer_t<Pointer>>, ConstStrided<T>, Strided<T>>;
    return View(qkv + batch * layout.tokens * stride() + (which * layout.heads + head) * layout.width, layout.tokens,
                layout.width, Eigen::OuterStride<>(stride()));
  }
  /// This head's columns of y or dy, [tokens, width].
  template <class Pointer>
  auto output(Pointer y) const {
    using View = std::conditional_t<std::is_const_v<std::remove_pointer_t<Pointer>>, ConstStrided<T>, Strided<T>>;
    const std::int64_t row = layout.heads * layout.width;
    return View(y + batch * layout.tokens * row + head * layout.width, layout.tokens, layout.width,
                Eigen::OuterStride<>(row));
  }
  std::int64_t row_of(std::int64_t token) const { return (batch * layout.heads + head) * layout.tokens + token; }

  bool allowed(const bool* valid, std::int64_t query, std::int64_t key) const {
    return (!layout.causal || key <= query) && (!valid || valid[batch * layout.tokens + key]);
  }
};

template <class T, class Body>
void for_each_head(const Attention& layout, const Body& body) {
  const std::int64_t cost = layout.tokens * layout.tokens * layout.width;
  parallel_for(layout.batch * layout.heads, block_for(cost, 1 << 16), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) body(Head<T>{layout, i / layout.heads, i % layout.heads});
  });
}

/// Scores of a tile of queries against the keys before `keys`, masked ones -Inf.
template <class T>
void masked_scores(const Head<T>& head, const T* qkv, const bool* valid, std::int64_t first, std::int64_t count,
                   std::int64_t keys, Matrix<T>& scores) {
  scores.resize(count, keys);
  scores.noalias() = head.part(qkv, 0).middleRows(first, count) * head.part(qkv, 1).topRows(keys).transpose();
  scores *= static_cast<T>(head.layout.scale);
  if (!head.layout.causal && !valid) return;
  for (std::int64_t i = 0; i < count; ++i) {
    for (std::int64_t j = 0; j < keys; ++j) {
      if (!head.allowed(valid, first + i, j)) scores(i, j) = -std::numeric_limits<T>::infinity();
    }
  }
}

/// Turns scores into probabilities, all 0 where nothing is allowed, and returns their logsumexp.
template <class T>
T normalize_row(T* row, std::int64_t keys) {
  const T largest = row_max(row, keys);
  const T shift = largest == -std::numeric_limits<T>::infinity() ? T{0} : largest;
  T sum{0};
#pragma omp simd reduction(+ : sum)
  for (std::int64_t j = 0; j < keys; ++j) {
    row[j] = exponential(row[j] - shift);
    sum += row[j];
  }
  const T factor = sum == T{0} ? T{0} : T{1} / sum;
  for (std::int64_t j = 0; j < keys; ++j) row[j] *= factor;
  return shift + std::log(sum);
}

std::int64_t keys_before(const Attention& layout, std::int64_t tile_end) {
  return layout.causal ? tile_end : layout.tokens;
}

}  // namespace

template <class T>
void attention(const Attention& layout, const T* qkv, const bool* valid, T* y, T* logsumexp) {
  for_each_head<T>(layout, [&](const Head<T>& head) {
    thread_local Matrix<T> scores, result;
    for (std::int64_t first = 0; first < layout.tokens; first += kQueryTile) {
      const std::int64_t count = std::min(kQueryTile, layout.tokens - first);
      const std::int64_t keys = keys_before(layout, first + count);
      masked_scores(head, qkv, valid, first, count, keys, scores);
      for (std::int64_t i = 0; i < count; ++i) {
        T* row = scores.row(i).data();
        logsumexp[head.row_of(first + i)] = normalize_row(row, keys);
      }
      // By way of scratch: Eigen's order of sums in a small product follows the alignment of its destination, which
      // in y depends on the sample's place in the batch.
      result.resize(count, layout.width);
      result.noalias() = scores * head.part(qkv, 2).topRows(keys);
      head.output(y).middleRows(first, count) = result;
    }
  });
}

template <class T>
void attention_backward(const Attention& layout, const T* qkv, const bool* valid, const T* y, const T* logsumexp,
                        const T* dy, T* dqkv, Mode mode) {
  const T scale = static_cast<T>(layout.scale);
  for_each_head<T>(layout, [&](const Head<T>& head) {
    thread_local Matrix<T> p, ds, dq, dk, dv;
    dk.setZero(layout.tokens, layout.width);
    dv.setZero(layout.tokens, layout.width);
    dq.resize(layout.tokens, layout.width);
    const auto out = head.output(y), gradient = head.output(dy);
    for (std::int64_t first = 0; first < layout.tokens; first += kQueryTile) {
      const std::int64_t count = std::min(kQueryTile, layout.tokens - first);
      const std::int64_t keys = keys_before(layout, first + count);
      masked_scores(head, qkv, valid, first, count, keys, p);
      ds.resize(count, keys);
      ds.noalias() = gradient.middleRows(first, count) * head.part(qkv, 2).topRows(keys).transpose();
      for (std::int64_t i = 0; i < count; ++i) {
        const T normalizer = logsumexp[head.row_of(first + i)];
        const bool nothing = normalizer == -std::numeric_limits<T>::infinity();
        const T dot = gradient.row(first + i).dot(out.row(first + i));
        T *p_row = p.row(i).data(), *ds_row = ds.row(i).data();
        for (std::int64_t j = 0; j < keys; ++j) {
          p_row[j] = nothing ? T{0} : exponential(p_row[j] - normalizer);
          ds_row[j] = p_row[j] * (ds_row[j] - dot) * scale;
        }
      }
      dq.middleRows(first, count).noalias() = ds * head.part(qkv, 1).topRows(keys);
      dk.topRows(keys).noalias() += ds.transpose() * head.part(qkv, 0).middleRows(first, count);
      dv.topRows(keys).noalias() += p.transpose() * gradient.middleRows(first, count);
    }
    const Matrix<T>* parts[] = {&dq, &dk, &dv};
    for (int which = 0; which < 3; ++which) {
      auto target = head.part(dqkv, which);
      if (mode == Mode::kWrite) target = *parts[which];
      else target += *parts[which];
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
