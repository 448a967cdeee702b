#include <algorithm>
#include <cmath>
#include <cstdint>

#include "tapecache/ops/cuda/cuda_kernels.h"
#include "tapecache/ops/cuda/divisor.h"
#include "tapecache/ops/cuda/logit_panel.cuh"

namespace tapecache::kernels::cuda {

namespace {

/// A document token and its similarity to a query token; -1 for none.
template <class T>
struct Candidate {
  T similarity;
  std::int32_t token;
};

/// The first of the largest; a NaN is taken, so that it is not lost.
template <class T>
__device__ Candidate<T> better(const Candidate<T>& a, const Candidate<T>& b) {
  if (a.token < 0 || b.token < 0) return a.token < 0 ? b : a;
  const bool a_lost = std::isnan(a.similarity), b_lost = std::isnan(b.similarity);
  if (a_lost != b_lost) return a_lost ? a : b;
  if (!a_lost && a.similarity != b.similarity) return a.similarity > b.similarity ? a : b;
  return a.token < b.token ? a : b;
}

/// Queries [row, row + rows) and documents [col, col + cols) with their similarities; rows over documents have `pitch`
/// elements.
template <class T>
struct Meeting {
  MaxSim m;
  std::int64_t row, col, rows, cols, pitch;
  T *similarities, *scores;  // [rows, query tokens, pitch, document tokens] and [rows, pitch]
  std::int32_t* best;        // [cols, rows, query tokens]: the document token, or -1 for an invalid query token

  __device__ std::int32_t* best_of(std::int64_t document) const { return best + document * rows * m.query_tokens; }
  /// Calls f with the scores as a panel of logits.
  template <class F>
  void with_panel(const T* scale, const F& f) const {
    with_equal_pairs(m.equal, [&]<class Equal>(const Equal& equal) {
      f(Panel<T, Equal>{scores, scale, nullptr, row, col, rows, cols, pitch, m.step, equal});
    });
  }
};

/// A warp for each query token and document.
template <class T>
__global__ void best_kernel(Meeting<T> at, const bool* query_mask, const bool* document_mask) {
  const std::int64_t count = at.rows * at.m.query_tokens * at.cols, tokens = at.m.document_tokens;
  for (std::int64_t i = thread_index() / kWarp; i < count; i += thread_count() / kWarp) {
    const std::int64_t query_token = i / at.cols, document = i % at.cols;
    const T* similarities = at.similarities + (query_token * at.pitch + document) * tokens;
    const bool* valid = document_mask ? document_mask + (at.col + document) * tokens : nullptr;
    Candidate<T> best{T{0}, -1};
    if (!query_mask || query_mask[at.row * at.m.query_tokens + query_token]) {
      for (std::int64_t s = threadIdx.x % kWarp; s < tokens; s += kWarp) {
        if (!valid || valid[s]) best = better(best, Candidate<T>{similarities[s], static_cast<std::int32_t>(s)});
      }
    }
    for (int bits = kWarp / 2; bits > 0; bits /= 2) {
      best = better(best, Candidate<T>{__shfl_xor_sync(kAllLanes, best.similarity, bits),
                                       __shfl_xor_sync(kAllLanes, best.token, bits)});
    }
    if (threadIdx.x % kWarp == 0) at.best_of(document)[query_token] = best.token;
  }
}

/// A warp for each query and document.
template <class T>
__global__ void scores_kernel(Meeting<T> at) {
  for (std::int64_t i = thread_index() / kWarp; i < at.rows * at.cols; i += thread_count() / kWarp) {
    const std::int64_t query = i / at.cols, document = i % at.cols, first = query * at.m.query_tokens;
    const std::int32_t* best = at.best_of(document) + first;
    T score{0};
    for (std::int64_t q = threadIdx.x % kWarp; q < at.m.query_tokens; q += kWarp) {
      if (best[q] >= 0) score += at.similarities[((first + q) * at.pitch + document) * at.m.document_tokens + best[q]];
    }
    score = warp_reduce(score, Sum{});
    if (threadIdx.x % kWarp == 0) at.scores[query * at.pitch + document] = score;
  }
}

/// Calls `f(meeting, is_last of its row of tiles)` for each group of tiles, with its scores.
template <class T, class F, class OnRow>
void for_each_meeting(const MaxSim& m, const T* queries, const bool* query_mask, const T* documents,
                      const bool* document_mask, T* workspace, std::int32_t* best, const F& f, const OnRow& on_row) {
  const std::int64_t pitch = m.group() * m.tile_cols;
  T* scores = workspace + m.tile_rows * pitch * m.query_tokens * m.document_tokens;
  for (std::int64_t row = 0; row < m.queries; row += m.tile_rows) {
    const std::int64_t rows = std::min(m.tile_rows, m.queries - row);
    for (std::int64_t col = 0; col < m.documents; col += pitch) {
      const std::int64_t cols = std::min(pitch, m.documents - col);
      const Meeting<T> at{m, row, col, rows, cols, pitch, workspace, scores, best};
      Provided<GemmKernels<T>>::kernels.gemm({.m = rows * m.query_tokens,
                                              .n = cols * m.document_tokens,
                                              .k = m.width,
                                              .transpose_b = true,
                                              .pitch_c = pitch * m.document_tokens},
                                             queries + row * m.query_tokens * m.width,
                                             documents + col * m.document_tokens * m.width, nullptr, nullptr, workspace,
                                             Mode::kWrite);
      launch(best_kernel<T>, grid_for(rows * m.query_tokens * cols * kWarp), at, query_mask, document_mask);
      launch(scores_kernel<T>, grid_for(rows * cols * kWarp), at);
      f(at, col + cols == m.documents);
    }
    on_row(row, rows);
  }
}

/// For a kernel whose blocks take a row of `width` elements each.
Grid grid_of_tokens(std::int64_t count, std::int64_t width) {
  const std::int64_t warps = std::min<std::int64_t>(divide_up(width, kWarp), kThreads / kWarp);
  return grid_of_rows(count, static_cast<unsigned>(warps) * kWarp);
}

/// dq[i, t] += Σ_j scale dz[i, j] d[j, best]; the scores hold scale dz.
template <class T>
__global__ void queries_gradient_kernel(Meeting<T> at, const T* documents, T* dqueries, Mode mode) {
  const std::int64_t width = at.m.width, tokens = at.m.document_tokens;
  for (std::int64_t token = blockIdx.x; token < at.rows * at.m.query_tokens; token += gridDim.x) {
    const T* slopes = at.scores + token / at.m.query_tokens * at.pitch;
    for (std::int64_t w = threadIdx.x; w < width; w += blockDim.x) {
      T sum{0};
      for (std::int64_t j = 0; j < at.cols; ++j) {
        const std::int32_t best = at.best_of(j)[token];
        if (best >= 0) sum += slopes[j] * documents[((at.col + j) * tokens + best) * width + w];
      }
      put(dqueries[(at.row * at.m.query_tokens + token) * width + w], sum, mode);
    }
  }
}

/// dd[j, s] += Σ scale dz[i, j] q[i, t] over the query tokens whose best is s. The lanes of a warp look for them among
/// 32 at a time.
template <class T>
__global__ void documents_gradient_kernel(Meeting<T> at, Divisor query_tokens, const T* queries, T* ddocuments,
                                          Mode mode) {
  const std::int64_t width = at.m.width, tokens = at.m.document_tokens, count = at.rows * at.m.query_tokens;
  for (std::int64_t token = blockIdx.x; token < at.cols * tokens; token += gridDim.x) {
    const std::int64_t document = token / tokens, s = token % tokens;
    const std::int32_t* best = at.best_of(document);
    for (std::int64_t w = threadIdx.x; w - threadIdx.x % kWarp < width; w += blockDim.x) {
      T sum{0};
      for (std::int64_t first = 0; first < count; first += kWarp) {
        const std::int64_t own = first + threadIdx.x % kWarp;
        unsigned found = __ballot_sync(kAllLanes, own < count && best[own] == s);
        for (; found != 0; found &= found - 1) {
          const std::int64_t q = first + __ffs(static_cast<int>(found)) - 1;
          if (w >= width) continue;
          sum += at.scores[query_tokens.quotient(q) * at.pitch + document] *
                 queries[(at.row * at.m.query_tokens + q) * width + w];
        }
      }
      if (w < width) put(ddocuments[(at.col * tokens + token) * width + w], sum, mode);
    }
  }
}

/// About 1024 query tokens and 16,384 document tokens together, 64 MiB of f32: in blocks of 128 by 128 a product is
/// 1024 blocks.
template <class T>
TileSizes maxsim_tile(const MaxSim& m) {
  constexpr std::int64_t kQueryTokens = 1024, kDocumentTokens = 16384 / MaxSim::kGroup;
  return {std::max<std::int64_t>(1, kQueryTokens / m.query_tokens),
          std::max<std::int64_t>(1, kDocumentTokens / m.document_tokens)};
}

template <class T>
void maxsim(const MaxSim& m, const T* queries, const bool* query_mask, const T* documents, const bool* document_mask,
            const T* scale, double* logsumexp, T* loss, T* workspace, std::int32_t* best, double* partials) {
  double* const positives = partials + 2 * m.tile_rows;
  const RunningLogSumExp rows{partials, partials + m.tile_rows};
  const Scratch<double> total(1);
  for_each_meeting(
      m, queries, query_mask, documents, document_mask, workspace, best,
      [&](const Meeting<T>& at, bool is_last) {
        at.with_panel(scale, [&](const auto& panel) { add_rows(panel, rows, positives, is_last, logsumexp); });
      },
      [&](std::int64_t row, std::int64_t count) {
        add_to_total(count, RowLoss{logsumexp + row, positives, 1}, total.data(), row == 0);
      });
  store_total(total.data(), static_cast<double>(m.queries), loss);
}

template <class T>
void maxsim_backward(const MaxSim& m, const T* queries, const bool* query_mask, const T* documents,
                     const bool* document_mask, const T* scale, const double* logsumexp, const T* dloss, T* dqueries,
                     Mode dqueries_mode, T* ddocuments, Mode ddocuments_mode, T* dscale, T* workspace,
                     std::int32_t* best, double* partials) {
  const Cotangent<T> cotangent{dloss, static_cast<double>(m.queries)};
  double *of_scale = partials, *of_bias = partials + m.tile_rows;
  const Scratch<double> total(1);
  const Normalizers<T> normalizers(m.queries, logsumexp);
  for_each_meeting(
      m, queries, query_mask, documents, document_mask, workspace, best,
      [&](const Meeting<T>& at, bool) {
        at.with_panel(scale, [&](const auto& panel) {
          differentiate(panel, RowSoftmax<T>{normalizers.data()}, cotangent, of_bias, of_scale);
        });
        if (dqueries) {
          launch(queries_gradient_kernel<T>, grid_of_tokens(at.rows * m.query_tokens, m.width), at, documents, dqueries,
                 at.col > 0 ? Mode::kAccumulate : dqueries_mode);
        }
        if (ddocuments) {
          launch(documents_gradient_kernel<T>, grid_of_tokens(at.cols * m.document_tokens, m.width), at,
                 Divisor(m.query_tokens), queries, ddocuments, at.row > 0 ? Mode::kAccumulate : ddocuments_mode);
        }
      },
      [&](std::int64_t row, std::int64_t rows) { add_to_total(rows, Summand{of_scale}, total.data(), row == 0); });
  store_total(total.data(), 1, dscale);
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

}  // namespace tapecache::kernels::cuda
