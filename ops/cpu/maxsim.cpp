#include <algorithm>
#include <cmath>

#include "tapecache/ops/cpu/cpu_kernels.h"
#include "tapecache/ops/cpu/product.h"
#include "tapecache/ops/cpu/row_math.h"

// As in contrastive.cpp: rows of tiles in their order, groups of tiles in theirs, the tiles of a group in parallel,
// each with its own documents.
namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT {

namespace {

/// Queries [row, row + rows) against documents [col, col + cols).
template <class T>
struct Tile {
  std::int64_t row, col, rows, cols;
  T* scores;           // [rows, cols], with a stride of tile_cols
  std::int32_t* best;  // [rows, query tokens, cols]: the document token, or -1 for an invalid query token
};

template <class T>
T logit(const MaxSim& m, const Tile<T>& tile, std::int64_t i, std::int64_t j, T scale) {
  if (m.equal.excludes(tile.row + i, tile.col + j)) return static_cast<T>(kExcluded);
  return scale * tile.scores[i * m.tile_cols + j];
}

/// y += factor x
template <class T>
void add_scaled(T* y, T factor, const T* x, std::int64_t n) {
  map(
      n, y, [f = set(factor)](auto before, auto v) TAPECACHE_INLINE { return hn::MulAdd(f, v, before); }, y, x);
}

template <class T>
class Walk {
 public:
  Walk(const MaxSim& m, const T* queries, const bool* query_mask, const T* documents, const bool* document_mask,
       T* workspace, std::int32_t* best)
      : m_(m),
        queries_(queries),
        documents_(documents),
        query_mask_(query_mask),
        document_mask_(document_mask),
        workspace_(workspace),
        best_(best) {}

  template <class OnTile, class OnGroup, class OnRow>
  void run(const OnTile& on_tile, const OnGroup& on_group, const OnRow& on_row) {
    for (std::int64_t row = 0; row < m_.queries; row += m_.tile_rows) {
      const std::int64_t rows = std::min(m_.tile_rows, m_.queries - row);
      for (first_ = 0; first_ < m_.tiles_across(); first_ += m_.group()) {
        const std::int64_t tiles = std::min(m_.group(), m_.tiles_across() - first_);
        parallel_for(tiles, 1, [&](std::int64_t begin, std::int64_t end) {
          for (std::int64_t t = begin; t < end; ++t) {
            const Tile<T> tile = this->tile(t, row, rows);
            fill(tile, t);
            on_tile(tile, t);
          }
        });
        on_group(row, rows, tiles, first_ == 0);
      }
      on_row(row, rows);
    }
  }

  /// The tile at place t of the present group.
  Tile<T> tile(std::int64_t t, std::int64_t row, std::int64_t rows) const {
    const std::int64_t col = (first_ + t) * m_.tile_cols, cells = m_.tile_rows * m_.tile_cols;
    T* scores = workspace_ + m_.group() * cells * m_.query_tokens * m_.document_tokens + t * cells;
    return {row, col, rows, std::min(m_.tile_cols, m_.documents - col), scores, best_ + t * cells * m_.query_tokens};
  }

 private:
  void fill(const Tile<T>& tile, std::int64_t t) const {
    const std::int64_t query_rows = tile.rows * m_.query_tokens, document_rows = tile.cols * m_.document_tokens;
    T* similarities = workspace_ + t * m_.tile_rows * m_.tile_cols * m_.query_tokens * m_.document_tokens;
    multiply<T>(query_rows, document_rows, m_.width, {queries_ + tile.row * m_.query_tokens * m_.width, m_.width},
                {documents_ + tile.col * m_.document_tokens * m_.width, m_.width, true}, similarities, document_rows,
                false);
    for (std::int64_t i = 0; i < tile.rows; ++i) {
      T* scores = tile.scores + i * m_.tile_cols;
      std::fill_n(scores, tile.cols, T{0});
      for (std::int64_t q = 0; q < m_.query_tokens; ++q) {
        const std::int64_t token = i * m_.query_tokens + q;
        std::int32_t* best = tile.best + token * tile.cols;
        const bool valid = !query_mask_ || query_mask_[(tile.row + i) * m_.query_tokens + q];
        for (std::int64_t j = 0; j < tile.cols; ++j) {
          best[j] =
              valid ? best_token(similarities + token * document_rows + j * m_.document_tokens, tile.col + j) : -1;
          if (valid) scores[j] += similarities[token * document_rows + j * m_.document_tokens + best[j]];
        }
      }
    }
  }

  /// The first of the largest; a NaN is taken, so that it is not lost.
  std::int32_t best_token(const T* similarities, std::int64_t document) const {
    if (!document_mask_) {
      // Without branches, which no processor foresees here. A NaN is left to the loop below.
      T largest = similarities[0];
      std::int32_t first = 0;
      bool ordered = largest == largest;
      for (std::int32_t s = 1; s < m_.document_tokens; ++s) {
        const T value = similarities[s];
        first = value > largest ? s : first;
        largest = value > largest ? value : largest;
        ordered &= value == value;
      }
      if (ordered) return first;
    }
    std::int64_t best = -1;
    for (std::int64_t s = 0; s < m_.document_tokens; ++s) {
      if (document_mask_ && !document_mask_[document * m_.document_tokens + s]) continue;
      if (best < 0 || similarities[s] > similarities[best] || std::isnan(similarities[s])) best = s;
      if (std::isnan(similarities[best])) break;
    }
    return static_cast<std::int32_t>(best);
  }

  const MaxSim& m_;
  const T *queries_, *documents_;
  const bool *query_mask_, *document_mask_;
  T* workspace_;
  std::int32_t* best_;
  std::int64_t first_ = 0;  // tile of the present group
};

template <class T>
TileSizes maxsim_tile(const MaxSim&) {
  return {8, 8};
}

template <class T>
void maxsim(const MaxSim& m, const T* queries, const bool* query_mask, const T* documents, const bool* document_mask,
            const T* scale, double* logsumexp, T* loss, T* workspace, std::int32_t* best, double* partials) {
  const T factor = *scale;
  Walk<T> walk(m, queries, query_mask, documents, document_mask, workspace, best);
  const std::int64_t part = m.group() * m.tile_rows;
  double *largest = partials, *sum = partials + part, *positives = partials + 2 * (part + m.tile_rows);
  const RunningLogSumExp so_far{partials + 2 * part, partials + 2 * part + m.tile_rows};
  double total = 0;
  walk.run(
      [&](const Tile<T>& tile, std::int64_t t) {
        for (std::int64_t i = 0; i < tile.rows; ++i) {
          const std::int64_t at = t * m.tile_rows + i;
          T* scores = tile.scores + i * m.tile_cols;
          for (std::int64_t j = 0; j < tile.cols; ++j) scores[j] = logit(m, tile, i, j, factor);
          row_parts(scores, tile.cols, largest[at], sum[at]);
        }
      },
      [&](std::int64_t row, std::int64_t rows, std::int64_t tiles, bool is_first) {
        if (is_first) {
          std::fill_n(so_far.largest, rows, kNoSummand);
          std::fill_n(so_far.sum, rows, 0.0);
        }
        for (std::int64_t t = 0; t < tiles; ++t) {
          const Tile<T> tile = walk.tile(t, row, rows);
          for (std::int64_t i = 0; i < rows; ++i) {
            so_far.add(i, largest[t * m.tile_rows + i], sum[t * m.tile_rows + i]);
            const std::int64_t positive = (row + i) * m.step - tile.col;
            if (positive >= 0 && positive < tile.cols) {
              positives[i] = static_cast<double>(tile.scores[i * m.tile_cols + positive]);
            }
          }
        }
      },
      [&](std::int64_t row, std::int64_t rows) {
        for (std::int64_t i = 0; i < rows; ++i) {
          logsumexp[row + i] = so_far.logsumexp(i);
          total += logsumexp[row + i] - positives[i];
        }
      });
  *loss = static_cast<T>(total / static_cast<double>(m.queries));
}

template <class T>
void maxsim_backward(const MaxSim& m, const T* queries, const bool* query_mask, const T* documents,
                     const bool* document_mask, const T* scale_of_scores, const double* logsumexp, const T* dloss,
                     T* dqueries, Mode dqueries_mode, T* ddocuments, Mode ddocuments_mode, T* dscale, T* workspace,
                     std::int32_t* best, double* partials) {
  Walk<T> walk(m, queries, query_mask, documents, document_mask, workspace, best);
  const T scale = *scale_of_scores,
          share = static_cast<T>(static_cast<double>(*dloss) / static_cast<double>(m.queries));
  double of_scale = 0;
  walk.run(
      [&](const Tile<T>& tile, std::int64_t t) {
        T* to = ddocuments ? ddocuments + tile.col * m.document_tokens * m.width : nullptr;
        if (to && tile.row == 0 && ddocuments_mode == Mode::kWrite) {
          std::fill_n(to, tile.cols * m.document_tokens * m.width, T{0});
        }
        double total = 0;
        for (std::int64_t i = 0; i < tile.rows; ++i) {
          T* scores = tile.scores + i * m.tile_cols;
          const double normalizer = logsumexp[tile.row + i];
          const std::int64_t positive = (tile.row + i) * m.step - tile.col;
          for (std::int64_t j = 0; j < tile.cols; ++j) {
            const T score = scores[j];
            const T softmax =
                exponential_of(static_cast<T>(static_cast<double>(logit(m, tile, i, j, scale)) - normalizer));
            scores[j] = share * (softmax - (j == positive ? T{1} : T{0}));
            total += static_cast<double>(scores[j]) * static_cast<double>(score);
          }
          for (std::int64_t q = 0; to && q < m.query_tokens; ++q) {
            const std::int64_t token = i * m.query_tokens + q;
            const std::int32_t* chosen = tile.best + token * tile.cols;
            const T* query = queries + (tile.row * m.query_tokens + token) * m.width;
            for (std::int64_t j = 0; j < tile.cols; ++j) {
              if (chosen[j] < 0) continue;
              const T factor = scale * scores[j];
              T* row = to + (j * m.document_tokens + chosen[j]) * m.width;
              add_scaled(row, factor, query, m.width);
            }
          }
        }
        partials[t] = total;
      },
      [&](std::int64_t row, std::int64_t rows, std::int64_t tiles, bool is_first) {
        for (std::int64_t t = 0; t < tiles; ++t) of_scale += partials[t];
        if (!dqueries) return;
        parallel_for(rows * m.query_tokens, 1, [&](std::int64_t begin, std::int64_t end) {
          for (std::int64_t token = begin; token < end; ++token) {
            T* to = dqueries + (row * m.query_tokens + token) * m.width;
            if (is_first && dqueries_mode == Mode::kWrite) std::fill_n(to, m.width, T{0});
            for (std::int64_t t = 0; t < tiles; ++t) {
              const Tile<T> tile = walk.tile(t, row, rows);
              const T* gradients = tile.scores + token / m.query_tokens * m.tile_cols;
              const std::int32_t* chosen = tile.best + token * tile.cols;
              for (std::int64_t j = 0; j < tile.cols; ++j) {
                if (chosen[j] < 0) continue;
                const T factor = scale * gradients[j];
                const T* document = documents + ((tile.col + j) * m.document_tokens + chosen[j]) * m.width;
                add_scaled(to, factor, document, m.width);
              }
            }
          }
        });
      },
      [](std::int64_t, std::int64_t) {});
  *dscale = static_cast<T>(of_scale);
}

template <class T>
constexpr MaxSimKernels<T> kMaxSim{
    .maxsim_tile = maxsim_tile<T>,
    .maxsim = maxsim<T>,
    .maxsim_backward = maxsim_backward<T>,
};

}  // namespace

template <>
const MaxSimKernels<float> Provided<MaxSimKernels<float>>::kernels = kMaxSim<float>;
template <>
const MaxSimKernels<double> Provided<MaxSimKernels<double>>::kernels = kMaxSim<double>;

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT
