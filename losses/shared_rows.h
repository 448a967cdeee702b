#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "tapecache/losses/row_totals.h"
#include "tapecache/losses/shared.h"
#include "tapecache/losses/similarity.h"
#include "tapecache/ops/logit_tile.h"
#include "tapecache/ops/pair_masks.h"

#pragma GCC visibility push(hidden)

namespace tapecache::losses::detail {

/// Rows of one set against candidates, which are those of all ranks of a set.
struct Pairing {
  std::size_t rows = 0, candidates = 0;
  std::vector<ops::Diagonal> outside = {};  // of own rows by own candidates: these are no negatives
  /// 1 at the pairs that are left out, 0 elsewhere, of a block of the rows and candidates of all ranks; what it says of
  /// those outside does not count. May be empty.
  std::function<Tensor(const ops::PairBlock&)> left_out = {};
};

/// Which loss is taken of the logits z = scale · scores of rows and candidates + bias.
enum class RowLoss {
  kSoftmax,   // the mean over rows of their cross-entropies
  kBothWays,  // the mean of that and the same over columns
  kSigmoid,   // Σ softplus(∓z) / rows, positives with the minus sign
};

/// A loss over the rows of all ranks, of which each computes its own rows of the logits, tile by tile.
struct SharedRows {
  const char* loss;
  RowLoss kind = RowLoss::kSoftmax;
  Weighting how = {};
  std::shared_ptr<const Similarity> similarity = std::make_shared<DotProducts>();
  /// Own rows [rows, …] of each set, and how many every rank has.
  std::vector<Variable> sets = {};
  std::vector<Shares> shares = {};
  /// Of equally many rows each. The losses of a row are over the candidates of all; kBothWays and `how` are for one.
  std::vector<Pairing> pairings = {};
  /// [rows, …]: of each row of the first pairing its positive, which is no negative of it.
  Variable positives = {};
  Variable scale = {}, bias = {};  // the same on all ranks; bias of kSigmoid alone
  bool ring = false;
  bool gradient = false;  // whether any rank wants the candidates' gradient
  kernels::TileSizes tile = {};
};

/// A scalar, the same on every rank. What is recorded makes calls in backward, on every rank the same; of scale and
/// bias every rank gets the whole gradient.
Variable shared_rows(distributed::Communicator& ranks, SharedRows rows);

}  // namespace tapecache::losses::detail

#pragma GCC visibility pop
