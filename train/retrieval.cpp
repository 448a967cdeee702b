#include "tapecache/train/metrics.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <vector>

#include <fmt/format.h>

#include "tapecache/autograd/tape.h"
#include "tapecache/ops/linear.h"

namespace tapecache::train {

namespace {

using Rows = std::vector<std::int64_t>;

/// The golds of each query.
std::vector<Rows> checked_golds(const char* metric, const Tensor& queries, const Tensor& targets, const Tensor& gold) {
  if (!queries.defined() || !targets.defined() || queries.rank() != 2 || targets.rank() != 2 || queries.size(0) < 1 ||
      targets.size(0) < 1 || queries.size(1) != targets.size(1)) {
    throw ShapeError(fmt::format("{}: queries are {} and targets {}, expected [queries, width] and [targets, width]",
                                 metric, describe(queries), describe(targets)));
  }
  const std::int64_t count = queries.size(0), limit = targets.size(0);
  if (!gold.defined() || gold.rank() < 1 || gold.rank() > 2 || gold.size(0) != count) {
    throw ShapeError(
        fmt::format("{}: gold is {}, expected int64 [{}] or [{}, golds]", metric, describe(gold), count, count));
  }
  if (gold.dtype() != DType::kInt64) {
    throw DTypeError(fmt::format("{}: gold is {}, expected int64", metric, name(gold.dtype())));
  }
  const auto given = gold.to_vector<std::int64_t>();
  const std::int64_t width = gold.numel() / count;
  std::vector<Rows> golds(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) {
    Rows& own = golds[static_cast<std::size_t>(i)];
    for (std::int64_t j = 0; j < width; ++j) {
      const std::int64_t row = given[static_cast<std::size_t>(i * width + j)];
      if (row == -1) continue;
      if (row < -1 || row >= limit) {
        throw ValueError(
            fmt::format("{}: gold {} of query {} is {}, expected a row of the targets, 0 to {}, or -1 for none", metric,
                        j, i, row, limit - 1));
      }
      if (std::ranges::find(own, row) != own.end()) {
        throw ValueError(fmt::format("{}: query {} has the gold {} twice", metric, i, row));
      }
      own.push_back(row);
    }
    if (own.empty()) throw ValueError(fmt::format("{}: query {} has no gold, expected at least one", metric, i));
  }
  return golds;
}

/// The ranks, from 1 and rising, of those golds that have one: a NaN has none.
std::vector<std::int64_t> ranks_of(const double* scores, std::int64_t targets, const Rows& golds) {
  std::vector<double> comparable;
  for (const std::int64_t g : golds) {
    if (!std::isnan(scores[g])) comparable.push_back(scores[g]);
  }
  std::ranges::sort(comparable, std::greater());
  std::vector<std::int64_t> ranks;
  for (const double score : comparable) {
    std::int64_t not_below = 0;
    for (std::int64_t j = 0; j < targets; ++j) not_below += !(scores[j] < score);
    // Of the comparable golds, those after this one may be level with it; they do not stand before it.
    const auto level = std::ranges::count_if(comparable, [&](double other) { return !(other < score); });
    ranks.push_back(not_below - level + static_cast<std::int64_t>(ranks.size()) + 1);
  }
  return ranks;
}

/// The ranks of each query's golds, a few queries at a time, so that the scores of a large pool need not all be held.
std::vector<std::vector<std::int64_t>> gold_ranks(const Tensor& queries, const Tensor& targets,
                                                  const std::vector<Rows>& golds) {
  constexpr std::int64_t kScores = std::int64_t{1} << 24;
  const NoRecording no_tape;
  const std::int64_t pool = targets.size(0), step = std::max<std::int64_t>(1, kScores / pool);
  std::vector<std::vector<std::int64_t>> ranks;
  for (std::int64_t begin = 0; begin < queries.size(0); begin += step) {
    const Tensor some = queries.slice(begin, std::min(queries.size(0), begin + step));
    const Tensor scores =
        ops::matmul(some, targets, {.transpose_b = true}).value().to(Device::cpu()).to(DType::kFloat64);
    for (std::int64_t i = 0; i < some.size(0); ++i) {
      ranks.push_back(ranks_of(scores.data<double>() + i * pool, pool, golds[ranks.size()]));
    }
  }
  return ranks;
}

std::map<int, double> mean_at_k(
    const char* metric, const Tensor& queries, const Tensor& targets, const Tensor& gold, std::span<const int> ks,
    const std::function<double(const std::vector<std::int64_t>&, std::size_t, int)>& of_query) {
  for (const int k : ks) {
    if (k < 1) throw ValueError(fmt::format("{}: k is {}, expected at least 1", metric, k));
  }
  const std::vector<Rows> golds = checked_golds(metric, queries, targets, gold);
  const auto ranks = gold_ranks(queries, targets, golds);
  std::map<int, double> means;
  for (const int k : ks) {
    double sum = 0;
    for (std::size_t i = 0; i < ranks.size(); ++i) sum += of_query(ranks[i], golds[i].size(), k);
    means[k] = sum / static_cast<double>(ranks.size());
  }
  return means;
}

double gain(std::int64_t rank) { return 1 / std::log2(1 + static_cast<double>(rank)); }

}  // namespace

std::map<int, double> recall_at_k(const Tensor& queries, const Tensor& targets, const Tensor& gold,
                                  std::span<const int> ks) {
  const auto share = [](const std::vector<std::int64_t>& ranks, std::size_t golds, int k) {
    const auto hits = std::ranges::count_if(ranks, [k](std::int64_t rank) { return rank <= k; });
    return static_cast<double>(hits) / static_cast<double>(golds);
  };
  return mean_at_k("recall_at_k", queries, targets, gold, ks, share);
}

std::map<int, double> recall_at_k(const Tensor& queries, const Tensor& targets, std::span<const int> ks) {
  if (!queries.defined() || !targets.defined() || queries.rank() != 2 || queries.shape() != targets.shape()) {
    throw ShapeError(fmt::format("recall_at_k: queries are {} and targets {}, expected [n, width] alike",
                                 describe(queries), describe(targets)));
  }
  Tensor own = Tensor::empty({queries.size(0)}, DType::kInt64);
  for (std::int64_t i = 0; i < own.numel(); ++i) own.mutable_data<std::int64_t>()[i] = i;
  return recall_at_k(queries, targets, own, ks);
}

double mean_reciprocal_rank(const Tensor& queries, const Tensor& targets, const Tensor& gold) {
  double sum = 0;
  for (const auto& ranks :
       gold_ranks(queries, targets, checked_golds("mean_reciprocal_rank", queries, targets, gold))) {
    if (!ranks.empty()) sum += 1 / static_cast<double>(ranks.front());
  }
  return sum / static_cast<double>(queries.size(0));
}

std::map<int, double> ndcg_at_k(const Tensor& queries, const Tensor& targets, const Tensor& gold,
                                std::span<const int> ks) {
  const auto share = [](const std::vector<std::int64_t>& ranks, std::size_t golds, int k) {
    double found = 0, ideal = 0;
    for (const std::int64_t rank : ranks) found += rank <= k ? gain(rank) : 0;
    for (std::int64_t rank = 1; rank <= std::min<std::int64_t>(k, static_cast<std::int64_t>(golds)); ++rank) {
      ideal += gain(rank);
    }
    return found / ideal;
  };
  return mean_at_k("ndcg_at_k", queries, targets, gold, ks, share);
}

}  // namespace tapecache::train
