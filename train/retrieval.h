#pragma once

#include <map>
#include <span>

#include "tapecache/core/tensor.h"

/// Metrics of retrieval by inner product. Queries are [queries, width] and targets [targets, width], of which `gold`,
/// i64 [queries] or [queries, golds], says the rows that are right for each query; -1 fills up rows of fewer golds.
/// Ties count against the query, also those of targets that are the same: list all of them in `gold`, or keep each
/// once. A NaN never is a hit and a target of NaN stands before all others. All throw ShapeError, DTypeError for other
/// integers, and ValueError for a k below 1, a gold outside the targets or given twice, and a query without one.
namespace tapecache::train {

/// recall@k: the mean over queries of the share of their golds among the k targets of largest inner product.
std::map<int, double> recall_at_k(const Tensor& queries, const Tensor& targets, const Tensor& gold,
                                  std::span<const int> ks);
/// The same where query i has the one gold i, and there are as many targets as queries.
std::map<int, double> recall_at_k(const Tensor& queries, const Tensor& targets, std::span<const int> ks);

/// The mean over queries of 1/rank of their best gold, counted from 1 over all targets (Voorhees 1999).
double mean_reciprocal_rank(const Tensor& queries, const Tensor& targets, const Tensor& gold);

/// nDCG@k with gains of 0 and 1 (Järvelin & Kekäläinen 2002): the mean over queries of Σ 1/log2(1 + rank) over the
/// golds among the first k, divided by what it is where the golds stand first.
std::map<int, double> ndcg_at_k(const Tensor& queries, const Tensor& targets, const Tensor& gold,
                                std::span<const int> ks);

}  // namespace tapecache::train
