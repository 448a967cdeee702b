#include <algorithm>
#include <cmath>
#include <type_traits>

#include "tapecache/core/element.h"
#include "tapecache/ops/cpu/cpu_kernels.h"
#include "tapecache/ops/cpu/product.h"
#include "tapecache/ops/cpu/product_bf16.h"
#include "tapecache/ops/cpu/row_math.h"
#include "tapecache/ops/cpu/scratch.h"

// Attention whose scores exist for one tile of queries and keys at a time (Dao et al. 2022, "FlashAttention"): maxima
// and sums of a row are carried from tile to tile. Of each row backward is given the largest score, unscaled, and the
// logarithm of Σ exp(scale · (score - that)). Queries, keys, values and results are In; sums are T, and so is
// everything else but the weights, which meet the values as In.
namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT {

namespace {

constexpr std::int64_t kQueryTile = 64, kKeyTile = 256;

/// One head of one sample.
struct Head {
  const Attention& layout;
  std::int64_t batch, head;

  std::int64_t qkv_stride() const { return (layout.heads + 2 * (layout.heads / layout.group)) * layout.width; }
  std::int64_t output_stride() const { return layout.heads * layout.width; }
  /// A token's query (0), key (1) or value (2); those of the next token are `qkv_stride` further.
  template <class Pointer>
  Pointer part(Pointer qkv, int which, std::int64_t token) const {
    const std::int64_t of_keys = layout.heads + (which - 1) * (layout.heads / layout.group) + head / layout.group;
    return qkv + (batch * layout.tokens + token) * qkv_stride() + (which == 0 ? head : of_keys) * layout.width;
  }
  /// This head's columns of a token of y or dy.
  template <class Pointer>
  Pointer output(Pointer y, std::int64_t token) const {
    return y + (batch * layout.tokens + token) * output_stride() + head * layout.width;
  }
  template <class In>
  Operand<In> operand(const In* qkv, int which, std::int64_t token, bool transposed = false) const {
    return {part(qkv, which, token), qkv_stride(), transposed};
  }
  std::int64_t row_of(std::int64_t token) const { return (batch * layout.heads + head) * layout.tokens + token; }
  /// Keys that come before the end of what a query may attend to, and those before its beginning.
  std::int64_t keys_of(std::int64_t query) const {
    return layout.causal ? query + 1 : std::min(layout.tokens, query + layout.window + 1);
  }
  std::int64_t keys_before(std::int64_t query) const { return std::max<std::int64_t>(0, query - layout.window); }
};

/// `body(head)` for the first head of each group of `group`.
template <class Body>
void for_each_head(const Attention& layout, std::int64_t group, const Body& body) {
  const std::int64_t groups = layout.heads / group;
  const std::int64_t cost = group * layout.tokens * std::min(layout.tokens, 2 * layout.window + 1) * layout.width;
  parallel_for(layout.batch * groups, block_for(cost, 1 << 16), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) body(Head{layout, i / groups, i % groups * group});
  });
}

/// Queries first … first + count and keys begin … begin + keys.
struct Tile {
  std::int64_t first, count, begin, keys;
  bool more;  // not the first tile of its queries

  /// The tile's keys that come before the end of what the i-th of its queries may attend to, and before its beginning.
  std::int64_t keys_of(const Head& head, std::int64_t i) const {
    return std::clamp<std::int64_t>(head.keys_of(first + i) - begin, 0, keys);
  }
  std::int64_t keys_before(const Head& head, std::int64_t i) const {
    return std::clamp<std::int64_t>(head.keys_before(first + i) - begin, 0, keys);
  }
};

/// `body(tile)` for the tiles of a tile of queries, in the order of the keys; for none whose keys all are too far.
template <class Body>
void for_each_key_tile(const Head& head, std::int64_t first, std::int64_t count, const Body& body) {
  const std::int64_t from = head.keys_before(first), end = head.keys_of(first + count - 1);
  for (std::int64_t begin = from; begin < end; begin += kKeyTile) {
    body(Tile{first, count, begin, std::min(kKeyTile, end - begin), begin > from});
  }
}

/// Room of a thread's own for two tiles of T and of In, and for a maximum and a sum a query.
template <class In, class T>
struct TileRoom {
  static constexpr std::int64_t kTile = kQueryTile * kKeyTile;

  T* tile0 = thread_scratch<T, TileRoom>(2 * kTile + 2 * kQueryTile);
  T* tile1 = tile0 + kTile;
  T* largest = tile1 + kTile;
  T* sum = largest + kQueryTile;
  In* low0 = std::is_same_v<In, T> ? nullptr : thread_scratch<In, TileRoom*>(2 * kTile);
  In* low1 = low0 + (low0 ? kTile : 0);
};

/// Q Kᵀ of a tile, unscaled; what may not be attended to is -Inf.
template <class In, class T>
void masked_scores(const Head& head, const Tile& tile, const In* qkv, const bool* valid, T* scores) {
  multiply(tile.count, tile.keys, head.layout.width, head.operand(qkv, 0, tile.first),
           head.operand(qkv, 1, tile.begin, true), scores, tile.keys, false);
  for (std::int64_t i = 0; i < tile.count; ++i) {
    T* row = scores + i * tile.keys;
    const std::int64_t own = tile.keys_of(head, i), before = tile.keys_before(head, i);
    if (valid) {
      const bool* of_keys = valid + head.batch * head.layout.tokens + tile.begin;
      for (std::int64_t j = before; j < own; ++j) row[j] = of_keys[j] ? row[j] : kNothing<T>;
    }
    std::fill(row, row + before, kNothing<T>);
    std::fill(row + own, row + tile.keys, kNothing<T>);
  }
}

/// A tile of weights as the products take it.
template <class In, class T>
const In* as_operand(const T* weights, std::int64_t count, In* room) {
  if constexpr (std::is_same_v<In, T>) {
    return weights;
  } else {
    map(
        count, room, [](auto v) TAPECACHE_INLINE { return v; }, weights);
    return room;
  }
}

/// Turns a row of scores into exp(scale · (score - maximum)), the maximum being that of this tile and those before;
/// returns the factor that brings sums of earlier tiles to that maximum. Large scores are subtracted before they are
/// scaled, as the rounded product of the maximum could be far from what the others are subtracted from it.
template <class T>
T exponentials(T* row, std::int64_t keys, T scale, T& largest, T& sum) {
  const T before = largest;
  largest = std::max(before, row_max(row, keys));
  const T shift = largest == kNothing<T> ? T{0} : largest;
  map(
      keys, row,
      [s = set(shift), factor = set(scale)](auto v)
          TAPECACHE_INLINE { return exponential(hn::Mul(hn::Sub(v, s), factor)); },
      row);
  const T factor = before == largest ? T{1} : exponential_of((before - shift) * scale);
  sum = sum * factor + static_cast<T>(row_sum(row, keys));
  return factor;
}

template <class T>
void scale_row(T* row, std::int64_t count, T factor) {
  map(
      count, row, [f = set(factor)](auto v) TAPECACHE_INLINE { return hn::Mul(v, f); }, row);
}

/// Rows of `width` that are added up in T: where they belong, or in room of the thread's own until they are put there.
template <class In, class T>
struct Sums {
  static constexpr bool kInPlace = std::is_same_v<In, T>;

  T* data;
  std::int64_t stride;

  template <class Use>
  static Sums of(In* to, std::int64_t to_stride, std::int64_t rows, std::int64_t width) {
    if constexpr (kInPlace) return {to, to_stride};
    else return {thread_scratch<T, Use>(rows * width), width};
  }
  T* row(std::int64_t i) const { return data + i * stride; }
  void put_into(In* to, std::int64_t to_stride, std::int64_t rows, std::int64_t width, Mode mode) const {
    if constexpr (!kInPlace) {
      for (std::int64_t i = 0; i < rows; ++i) put_all(to + i * to_stride, row(i), width, mode);
    }
  }
};

template <class In, class T>
void attention_tiles(const Attention& layout, const In* qkv, const bool* valid, In* y, T* logsumexp) {
  const T scale = static_cast<T>(layout.scale);
  const std::int64_t width = layout.width;
  for_each_head(layout, 1, [&](const Head& head) {
    const TileRoom<In, T> room;
    T *scores = room.tile0, *largest = room.largest, *sum = room.sum;
    for (std::int64_t first = 0; first < layout.tokens; first += kQueryTile) {
      const std::int64_t count = std::min(kQueryTile, layout.tokens - first);
      std::fill_n(largest, count, kNothing<T>);
      std::fill_n(sum, count, T{0});
      In* to = head.output(y, first);
      const auto sums = Sums<In, T>::template of<Head>(to, head.output_stride(), count, width);
      for_each_key_tile(head, first, count, [&](const Tile& tile) {
        masked_scores(head, tile, qkv, valid, scores);
        for (std::int64_t i = 0; i < count; ++i) {
          const T factor = exponentials(scores + i * tile.keys, tile.keys, scale, largest[i], sum[i]);
          if (tile.more && factor != T{1}) scale_row(sums.row(i), width, factor);
        }
        const In* weights = as_operand<In>(scores, count * tile.keys, room.low0);
        multiply(count, width, tile.keys, {weights, tile.keys}, head.operand(qkv, 2, tile.begin), sums.data,
                 sums.stride, tile.more);
      });
      for (std::int64_t i = 0; i < count; ++i) {
        scale_row(sums.row(i), width, sum[i] == T{0} ? T{0} : T{1} / sum[i]);
        T* parts = logsumexp + 2 * head.row_of(first + i);
        parts[0] = largest[i] == kNothing<T> ? T{0} : largest[i];
        parts[1] = std::log(sum[i]);
      }
      sums.put_into(to, head.output_stride(), count, width, Mode::kWrite);
    }
  });
}

template <class In, class T>
void attention_tiles_backward(const Attention& layout, const In* qkv, const bool* valid, const In* y,
                              const T* logsumexp, const In* dy, In* dqkv, Mode mode) {
  struct Queries;
  struct Keys;
  struct Values;
  const T scale = static_cast<T>(layout.scale);
  const bool accumulate = mode == Mode::kAccumulate && Sums<In, T>::kInPlace;
  const std::int64_t width = layout.width, tokens = layout.tokens;
  // Heads that share keys are taken one after another, so that each of their sums has one writer.
  for_each_head(layout, layout.group, [&](const Head& of_group) {
    const TileRoom<In, T> room;
    T *p = room.tile0, *ds = room.tile1, *dots = room.sum;
    const std::int64_t stride = of_group.qkv_stride();
    const auto put = [&](const Sums<In, T>& sums, const Head& head, int which) {
      sums.put_into(head.part(dqkv, which, 0), stride, tokens, width, mode);
    };
    const auto key_sums = Sums<In, T>::template of<Keys>(of_group.part(dqkv, 1, 0), stride, tokens, width);
    const auto value_sums = Sums<In, T>::template of<Values>(of_group.part(dqkv, 2, 0), stride, tokens, width);
    std::int64_t keys_before = 0;  // that earlier queries have given a gradient
    for (std::int64_t member = 0; member < layout.group; ++member) {
      const Head head{layout, of_group.batch, of_group.head + member};
      const auto query_sums = Sums<In, T>::template of<Queries>(head.part(dqkv, 0, 0), stride, tokens, width);
      for (std::int64_t first = 0; first < tokens; first += kQueryTile) {
        const std::int64_t count = std::min(kQueryTile, tokens - first);
        const Operand<In> gradient{head.output(dy, first), head.output_stride()};
        for (std::int64_t i = 0; i < count; ++i) {
          const In *out = head.output(y, first + i), *dout = head.output(dy, first + i);
          dots[i] = static_cast<T>(row_dot(dout, out, width));
        }
        for_each_key_tile(head, first, count, [&](const Tile& tile) {
          masked_scores(head, tile, qkv, valid, p);
          multiply(count, tile.keys, width, gradient, head.operand(qkv, 2, tile.begin, true), ds, tile.keys, false);
          for (std::int64_t i = 0; i < count; ++i) {
            const T *parts = logsumexp + 2 * head.row_of(first + i), dot = dots[i];
            T *p_row = p + i * tile.keys, *ds_row = ds + i * tile.keys;
            if (parts[1] == kNothing<T>) {
              std::fill_n(p_row, tile.keys, T{0});
            } else {
              map(
                  tile.keys, p_row,
                  [shift = set(parts[0]), rest = set(parts[1]), factor = set(scale)](auto v)
                      TAPECACHE_INLINE { return exponential(hn::MulSub(hn::Sub(v, shift), factor, rest)); },
                  p_row);
            }
            map(
                tile.keys, ds_row,
                [of_row = set(dot), factor = set(scale)](auto weight, auto slope)
                    TAPECACHE_INLINE { return hn::Mul(hn::Mul(weight, hn::Sub(slope, of_row)), factor); },
                p_row, ds_row);
          }
          const std::int64_t size = count * tile.keys;
          const In *weights = as_operand<In>(p, size, room.low0), *slopes = as_operand<In>(ds, size, room.low1);
          multiply(count, width, tile.keys, {slopes, tile.keys}, head.operand(qkv, 1, tile.begin),
                   query_sums.row(first), query_sums.stride, accumulate || tile.more);
          // Keys that no earlier query has reached are written where the others are added to.
          const auto to_keys = [&](const In* left, const Operand<In>& right, const Sums<In, T>& sums) {
            const auto rows = [&](std::int64_t begin, std::int64_t end, bool add) {
              multiply(end - begin, width, count, {left + begin, tile.keys, true}, right, sums.row(tile.begin + begin),
                       sums.stride, add);
            };
            const std::int64_t reached = std::clamp<std::int64_t>(keys_before - tile.begin, 0, tile.keys);
            rows(0, reached, true);
            rows(reached, tile.keys, accumulate);
          };
          to_keys(slopes, head.operand(qkv, 0, first), key_sums);
          to_keys(weights, gradient, value_sums);
        });
        keys_before = std::max(keys_before, head.keys_of(first + count - 1));
      }
      put(query_sums, head, 0);
    }
    put(key_sums, of_group, 1);
    put(value_sums, of_group, 2);
  });
}

template <class T>
void attention(const Attention& layout, const T* qkv, const bool* valid, T* y, T* logsumexp) {
  attention_tiles(layout, qkv, valid, y, logsumexp);
}

template <class T>
void attention_backward(const Attention& layout, const T* qkv, const bool* valid, const T* y, const T* logsumexp,
                        const T* dy, T* dqkv, Mode mode) {
  attention_tiles_backward(layout, qkv, valid, y, logsumexp, dy, dqkv, mode);
}

template <class Low>
void low_attention(const Attention& layout, const Low* qkv, const bool* valid, Low* y, float* logsumexp) {
  attention_tiles(layout, qkv, valid, y, logsumexp);
}

template <class Low>
void low_attention_backward(const Attention& layout, const Low* qkv, const bool* valid, const Low* y,
                            const float* logsumexp, const Low* dy, Low* dqkv, Mode mode) {
  attention_tiles_backward(layout, qkv, valid, y, logsumexp, dy, dqkv, mode);
}

template <class T>
constexpr AttentionKernels<T> kAttention{
    .attention = attention<T>,
    .attention_backward = attention_backward<T>,
};
template <class Low>
requires kLowPrecision<Low>
constexpr AttentionKernels<Low> kAttention<Low>{
    .attention = low_attention<Low>,
    .attention_backward = low_attention_backward<Low>,
};

}  // namespace

template <>
const AttentionKernels<float> Provided<AttentionKernels<float>>::kernels = kAttention<float>;
template <>
const AttentionKernels<double> Provided<AttentionKernels<double>>::kernels = kAttention<double>;
template <>
const AttentionKernels<BFloat16> Provided<AttentionKernels<BFloat16>>::kernels = kAttention<BFloat16>;
template <>
const AttentionKernels<Float16> Provided<AttentionKernels<Float16>>::kernels = kAttention<Float16>;

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT
