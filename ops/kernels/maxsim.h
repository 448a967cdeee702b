#pragma once

#include <cstdint>

#include "tapecache/ops/kernels/equal_pairs.h"
#include "tapecache/ops/kernels/mode.h"
#include "tapecache/ops/kernels/tiles.h"

/// The contrastive loss of late interaction, tile by tile. All arrays are contiguous and row-major.
namespace tapecache::kernels {

/// InfoNCE over scale · Σ_t max_s q[i, t] · d[j, s] of queries [queries, query_tokens, width] and documents [documents,
/// document_tokens, width], taken tile by tile. The positive of query i is document i · step.
struct MaxSim {
  std::int64_t queries = 0, documents = 0, query_tokens = 0, document_tokens = 0, width = 0, step = 1;
  std::int64_t tile_rows = 1, tile_cols = 1;
  EqualPairs equal = {};

  /// Tiles beside each other that are in memory together.
  static constexpr std::int64_t kGroup = 8;
  std::int64_t tiles_across() const { return (documents + tile_cols - 1) / tile_cols; }
  std::int64_t group() const { return tiles_across() < kGroup ? tiles_across() : kGroup; }
  /// Elements of T: similarities and scores of a group of tiles.
  std::int64_t workspace() const { return tile_rows * group() * tile_cols * (query_tokens * document_tokens + 1); }
  /// Doubles: a maximum and a sum for each query in each tile of a group; a maximum, a sum and a positive a query.
  std::int64_t partials() const { return (2 * group() + 3) * tile_rows; }
  /// Best document tokens of a group of tiles.
  std::int64_t best() const { return tile_rows * query_tokens * group() * tile_cols; }
};

template <class T>
struct MaxSimKernels {
  // Masks may be null; every document has a valid token. `best` is scratch. Of the sizes that maxsim_tile is told,
  // those of tiles do not count.
  TileSizes (*maxsim_tile)(const MaxSim&);
  void (*maxsim)(const MaxSim&, const T* queries, const bool* query_mask, const T* documents, const bool* document_mask,
                 const T* scale, double* logsumexp, T* loss, T* workspace, std::int32_t* best, double* partials);
  void (*maxsim_backward)(const MaxSim&, const T* queries, const bool* query_mask, const T* documents,
                          const bool* document_mask, const T* scale, const double* logsumexp, const T* dloss,
                          T* dqueries, Mode dqueries_mode, T* ddocuments, Mode ddocuments_mode, T* dscale, T* workspace,
                          std::int32_t* best, double* partials);
};

}  // namespace tapecache::kernels
