#pragma once

#include <array>
#include <cstdint>

#include "tapecache/core/shape.h"

/// What kernels are told besides their arrays. All arrays are contiguous and row-major.
namespace tapecache::kernels {

/// Whether a gradient kernel overwrites its destination or adds to it.
enum class Mode { kWrite, kAccumulate };

enum class BinaryOp { kAdd, kSubtract, kMultiply, kDivide };

/// Element-wise functions of one argument; `a` and `b` are their numbers.
enum class UnaryOp {
  kScale,      // a x
  kExp,
  kLog,
  kSqrt,
  kRsqrt,      // 1 / sqrt(x)
  kPow,        // x^a
  kTanh,
  kErf,
  kSigmoid,
  kRelu,
  kGelu,       // x Φ(x), with erf
  kGeluTanh,   // 0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³)))
  kQuickGelu,  // x σ(1.702 x)
  kSilu,       // x σ(x)
  kSoftplus,   // log(1 + eˣ)
  kClamp,      // min(max(x, a), b)
};

/// Whether the derivative of a unary function is taken from its output (else from its input).
constexpr bool derivative_uses_output(UnaryOp op) {
  return op == UnaryOp::kExp || op == UnaryOp::kSqrt || op == UnaryOp::kRsqrt || op == UnaryOp::kTanh ||
         op == UnaryOp::kSigmoid;
}

enum class ReduceOp { kSum, kMean, kMax, kLogSumExp, kNorm };

/// Strides by which two operands are read while the output shape is walked; 0 where an operand is repeated.
struct Broadcast {
  int rank = 0;
  std::array<std::int64_t, Shape::kMaxRank> sizes{}, a{}, b{};
};

/// C = op(A) op(B) for `batch` matrices. op(A) is [m, k], op(B) [k, n], C [m, n]; with transpose_a, A is stored
/// [k, m]; with transpose_b, B is stored [n, k]. A batch stride of 0 repeats the matrix. The pitches are the distances
/// between rows as they are stored, 0 where no gap is between them.
struct Gemm {
  std::int64_t batch = 1, m = 0, n = 0, k = 0;
  bool transpose_a = false, transpose_b = false;
  std::int64_t stride_a = 0, stride_b = 0, stride_c = 0;
  std::int64_t pitch_a = 0, pitch_b = 0, pitch_c = 0;
  bool packed_b = false;  ///< B is what the backend's pack_factor has made of op(B); batch 1

  std::int64_t row_stride_a() const { return pitch_a != 0 ? pitch_a : transpose_a ? m : k; }
  std::int64_t row_stride_b() const { return pitch_b != 0 ? pitch_b : transpose_b ? k : n; }
  std::int64_t row_stride_c() const { return pitch_c != 0 ? pitch_c : n; }
};

/// Where a function f stands in a product: C = f(op(A)) op(B), C = op(A) f(op(B)), or C = op(A) op(B) · f'(at).
enum class Activated { kLeft, kRight, kDerivative };

/// The samples that rows belong to: `ids` where it is not null, else first, first + 1, …
struct Samples {
  std::int64_t first = 0, count = 0;
  const std::int64_t* ids = nullptr;
};

/// x [outer, count, inner] by channel: the axis of `count`.
struct Channels {
  std::int64_t outer = 0, count = 0, inner = 0;
};

/// Attention on packed [batch, tokens, 3, heads, width] queries, keys and values.
struct Attention {
  std::int64_t batch = 0, tokens = 0, heads = 0, width = 0;
  double scale = 1;
  bool causal = false;
};

/// What stands for the logit of a pair that is left out: far below all others, and finite, so that anomaly mode stays quiet.
inline constexpr double kExcluded = -1e37;

/// Which targets are left out of a query's negatives, as no negatives of it, the positive of query i being target i · step:
/// those whose id is that of its positive, and the positives of queries whose id is its own. Without ids all differ.
struct EqualPairs {
  const std::int64_t *query_ids = nullptr, *target_ids = nullptr;
  std::int64_t step = 1;

  constexpr bool some() const { return query_ids || target_ids; }
  constexpr bool excludes(std::int64_t query, std::int64_t target) const {
    const std::int64_t positive = query * step;
    if (target == positive) return false;
    if (target_ids && target_ids[target] == target_ids[positive]) return true;
    if (!query_ids) return false;
    if (step == 1) return query_ids[target] == query_ids[query];
    return target % step == 0 && query_ids[target / step] == query_ids[query];
  }
};

/// Which cross-entropies a contrastive loss takes of its logits.
enum class ContrastiveOp {
  kRows,            // mean over rows of -log softmax
  kRowsAndColumns,  // the mean of that and of the same over columns
  kSigmoid,         // Σ log(1 + exp(∓z)) / rows, positives with the minus sign
};

struct TileSizes {
  std::int64_t rows = 1, cols = 1;
};

/// A loss over the logits z = scale · a bᵀ + bias of a [rows, width] and b [cols, width], taken tile by tile. The
/// positive of row i is column i · step.
struct Contrastive {
  ContrastiveOp op = ContrastiveOp::kRows;
  std::int64_t rows = 0, cols = 0, width = 0, step = 1;
  std::int64_t tile_rows = 1, tile_cols = 1;
  EqualPairs equal = {};

  /// Tiles beside each other that are in memory together.
  static constexpr std::int64_t kGroup = 8;
  std::int64_t tiles_across() const { return (cols + tile_cols - 1) / tile_cols; }
  std::int64_t group() const { return tiles_across() < kGroup ? tiles_across() : kGroup; }
  /// Doubles: a maximum and a sum for each row in each tile of a group, for each row, and for each column.
  std::int64_t partials() const { return 2 * (group() + 1) * tile_rows + 2 * cols; }
};

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

/// Candidates [rows, cols] that a guide finds nearer than a row's positive, whose similarity is number i · positive_step of an
/// array for row i.
struct FalseNegatives {
  std::int64_t rows = 0, cols = 0, positive_step = 0;
  std::int64_t kept_step = 0;  ///< where it is not 0, column i · kept_step of row i is none of them
  bool self = false;           ///< whether column i is, whatever the guide finds: row i itself
  double margin = 0;
  bool relative = false;  ///< whether the margin is a share of the positive's similarity

  /// What the similarity of one exceeds.
  constexpr double threshold(double positive) const {
    return positive - (relative ? margin * (positive < 0 ? -positive : positive) : margin);
  }
};

/// Numbers of an update that are read when its kernel runs, from its device's memory, one element each: so a step can be
/// replayed with others. Those that are null are the host's. Where `non_finite` is not null and not 0, nothing is changed.
struct LateNumbers {
  const double *learning_rate = nullptr, *gradient_scale = nullptr, *non_finite = nullptr;
};

/// One step of AdamW (Loshchilov & Hutter 2019).
struct AdamW {
  double learning_rate, beta1, beta2, epsilon, gradient_scale;
  LateNumbers late = {};
};

struct Sgd {
  double learning_rate, momentum, gradient_scale;
  LateNumbers late = {};
};

/// What an update reads and changes, for many arrays at once. `first` is the number of elements in the arrays before it;
/// the corrections are 1 - βᵗ. Where `steps` is not null, t is counted there, and the corrections follow from it.
template <class T>
struct AdamWArrays {
  std::int64_t first, size;
  const T* gradient;
  T *value, *m, *v;
  double weight_decay, correction1, correction2;
  std::int64_t* steps = nullptr;
};

template <class T>
struct SgdArrays {
  std::int64_t first, size;
  const T* gradient;
  T *value, *velocity;
  double weight_decay;
};

template <class T>
struct ConstArray {
  std::int64_t first, size;
  const T* data;
};

template <class T>
struct MutableArray {
  std::int64_t first, size;
  T* data;
};

/// Elements of all arrays together that one block of an update, and one partial sum, is of.
constexpr std::int64_t kUpdateBlock = 16384;

}  // namespace tapecache::kernels
