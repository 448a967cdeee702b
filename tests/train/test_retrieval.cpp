#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "checks.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/core/error.h"
#include "tapecache/train/metrics.h"

using namespace tapecache;
using namespace tapecache::testing;
using namespace tapecache::train;

namespace {

Tensor golds(const std::vector<std::int64_t>& rows, std::int64_t queries) {
  return Tensor::from(rows, {queries, static_cast<std::int64_t>(rows.size()) / queries});
}

/// Queries and targets whose scores are the rows given.
struct Scored {
  Tensor queries, targets;

  Scored(const std::vector<double>& scores, std::int64_t count) {
    const auto pool = static_cast<std::int64_t>(scores.size()) / count;
    queries = Tensor::from(scores, {count, pool});
    targets = Tensor::zeros({pool, pool}, DType::kFloat64);
    for (std::int64_t i = 0; i < pool; ++i) targets.mutable_data<double>()[i * pool + i] = 1;
  }
};

/// Each metric of one query as its definition says, over a list sorted from best to worst.
struct Naive {
  std::vector<bool> right;

  Naive(const double* query, const Tensor& targets, const std::vector<std::int64_t>& gold) {
    std::vector<std::pair<double, bool>> list;
    const std::int64_t width = targets.size(1);
    for (std::int64_t j = 0; j < targets.size(0); ++j) {
      double score = 0;
      for (std::int64_t c = 0; c < width; ++c) score += query[c] * targets.data<double>()[j * width + c];
      list.emplace_back(-score, std::ranges::find(gold, j) != gold.end());
    }
    std::ranges::sort(list);  // and of equal scores those that are not gold first
    for (const auto& [score, is_gold] : list) right.push_back(is_gold);
  }
  double recall(std::size_t k) const {
    const auto end = right.begin() + static_cast<std::ptrdiff_t>(std::min(k, right.size()));
    return static_cast<double>(std::count(right.begin(), end, true)) /
           static_cast<double>(std::ranges::count(right, true));
  }
  double reciprocal_rank() const {
    return 1.0 / static_cast<double>(1 + (std::ranges::find(right, true) - right.begin()));
  }
  double ndcg(std::size_t k) const {
    double found = 0, ideal = 0;
    std::vector<bool> best = right;
    std::sort(best.begin(), best.end(), std::greater());
    for (std::size_t i = 0; i < std::min(k, right.size()); ++i) {
      found += right[i] / std::log2(static_cast<double>(i) + 2);
      ideal += best[i] / std::log2(static_cast<double>(i) + 2);
    }
    return found / ideal;
  }
};

void close(double found, double expected) {
  BOOST_TEST(std::abs(found - expected) <= 1e-14, "found " << found << ", not " << expected);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(retrieval)

BOOST_AUTO_TEST_CASE(metrics_are_as_their_definitions) {
  constexpr std::int64_t kQueries = 9, kPool = 31, kWidth = 4;
  for (const std::int64_t most : {1, 2, 5}) {
    const Tensor queries = random_values({kQueries, kWidth}, 1), targets = random_values({kPool, kWidth}, 2);
    std::vector<std::int64_t> rows;
    for (std::int64_t i = 0; i < kQueries; ++i) {
      for (std::int64_t j = 0; j < most; ++j) rows.push_back(j > i % most ? -1 : (5 * i + 7 * j + 3) % kPool);
    }
    const Tensor gold = golds(rows, kQueries);
    const std::vector<int> ks{1, 3, 10, 31, 100};
    std::map<int, double> recall, ndcg;
    double reciprocal = 0;
    for (std::int64_t i = 0; i < kQueries; ++i) {
      std::vector<std::int64_t> own(rows.begin() + i * most, rows.begin() + (i + 1) * most);
      std::erase(own, -1);
      const Naive naive(queries.data<double>() + i * kWidth, targets, own);
      reciprocal += naive.reciprocal_rank() / kQueries;
      for (const int k : ks) {
        recall[k] += naive.recall(static_cast<std::size_t>(k)) / kQueries;
        ndcg[k] += naive.ndcg(static_cast<std::size_t>(k)) / kQueries;
      }
    }
    BOOST_TEST_CONTEXT("up to " << most << " golds") {
      const auto found_recall = recall_at_k(queries, targets, gold, ks),
                 found_ndcg = ndcg_at_k(queries, targets, gold, ks);
      for (const int k : ks) close(found_recall.at(k), recall[k]), close(found_ndcg.at(k), ndcg[k]);
      close(mean_reciprocal_rank(queries, targets, gold), reciprocal);
      BOOST_TEST(found_recall.at(1) < found_recall.at(31));
    }
    if (most == 1) {
      const Tensor flat = gold.reshape({kQueries});
      BOOST_TEST((recall_at_k(queries, targets, flat, ks) == recall_at_k(queries, targets, gold, ks)));
    }
  }
}

BOOST_AUTO_TEST_CASE(queries_by_the_pool_are_more_than_one_pass_holds) {
  constexpr std::int64_t kQueries = 4000, kPool = 5000;
  static_assert(kQueries * kPool > std::int64_t{1} << 24);  // kScores there
  // Whole numbers, so that the scores are exact in any order of summing; many are level.
  std::vector<double> queries, targets;
  std::vector<std::int64_t> gold;
  for (std::int64_t i = 0; i < kQueries; ++i) {
    queries.push_back(static_cast<double>(i * 37 % 101 - 50)), queries.push_back(static_cast<double>(i * i % 89 - 44));
    gold.push_back((i * 613 + 7) % kPool);
  }
  for (std::int64_t j = 0; j < 2 * kPool; ++j) targets.push_back(static_cast<double>(j * j % 997 - 498));
  const std::vector<int> ks{1, 100, 2500};
  double reciprocal = 0;
  std::map<int, double> recall, ndcg;
  for (std::size_t i = 0; i < kQueries; ++i) {
    const auto score = [&](std::size_t j) {
      return queries[2 * i] * targets[2 * j] + queries[2 * i + 1] * targets[2 * j + 1];
    };
    const double own = score(static_cast<std::size_t>(gold[i]));
    std::int64_t rank = 0;  // the gold is one of those that are not below it
    for (std::size_t j = 0; j < kPool; ++j) rank += score(j) >= own;
    reciprocal += 1 / static_cast<double>(rank);
    for (const int k : ks) {
      recall[k] += rank <= k;
      ndcg[k] += rank <= k ? 1 / std::log2(1 + static_cast<double>(rank)) : 0;
    }
  }
  const Tensor q = Tensor::from(queries, {kQueries, 2}), t = Tensor::from(targets, {kPool, 2}),
               g = golds(gold, kQueries);
  close(mean_reciprocal_rank(q, t, g), reciprocal / kQueries);
  const auto found_recall = recall_at_k(q, t, g, ks), found_ndcg = ndcg_at_k(q, t, g, ks);
  for (const int k : ks) close(found_recall.at(k), recall[k] / kQueries), close(found_ndcg.at(k), ndcg[k] / kQueries);
  BOOST_TEST((found_recall.at(100) > 0 && found_recall.at(2500) < 1));
}

BOOST_AUTO_TEST_CASE(metrics_worked_out_by_hand) {
  const Scored s({4, 3, 2, 1, 0,   // golds at ranks 1 and 3
                  4, 3, 2, 1, 0},  // gold at rank 2
                 2);
  const Tensor gold = golds({2, 0, 1, -1}, 2);
  const std::vector<int> ks{1, 2, 3};
  const auto recall = recall_at_k(s.queries, s.targets, gold, ks), ndcg = ndcg_at_k(s.queries, s.targets, gold, ks);
  close(recall.at(1), 0.25), close(recall.at(2), 0.75), close(recall.at(3), 1);
  const double second = 1 / std::log2(3.0), third = 0.5;
  close(ndcg.at(1), 0.5), close(ndcg.at(2), (1 / (1 + second) + second) / 2);
  close(ndcg.at(3), ((1 + third) / (1 + second) + second) / 2);
  close(mean_reciprocal_rank(s.queries, s.targets, gold), 0.75);
}

BOOST_AUTO_TEST_CASE(ties_and_nan_count_against_the_query) {
  const std::vector<int> ks{1, 2, 3, 4};
  // All level: the two golds stand behind the two others, one after the other.
  const Scored level({1, 1, 1, 1}, 1);
  const Tensor gold = golds({0, 1}, 1);
  const auto recall = recall_at_k(level.queries, level.targets, gold, ks);
  close(recall.at(2), 0), close(recall.at(3), 0.5), close(recall.at(4), 1);
  close(mean_reciprocal_rank(level.queries, level.targets, gold), 1.0 / 3);
  // A gold of NaN is no hit, and stands before the other one.
  Tensor queries = Tensor::full({1, 1}, 1, DType::kFloat64),
         targets = Tensor::from(std::vector<double>{kNaN, 2, 1}, {3, 1});
  close(mean_reciprocal_rank(queries, targets, gold), 0.5);
  close(recall_at_k(queries, targets, gold, ks).at(4), 0.5);
  queries.fill(kNaN);
  close(mean_reciprocal_rank(queries, targets, gold), 0);
  close(ndcg_at_k(queries, targets, gold, ks).at(4), 0);
}

BOOST_AUTO_TEST_CASE(metrics_stay_off_the_tape) {
  Tape tape;
  const Recording recording(tape);
  const Tensor x = random_values({4, 3}, 1, DType::kFloat32);
  mean_reciprocal_rank(x, x, golds({0, 1, 2, 3}, 4));
  BOOST_TEST(tape.nodes().empty());
}

BOOST_AUTO_TEST_CASE(retrieval_arguments) {
  const std::vector<int> one{1};
  const Tensor queries = random_values({2, 3}, 1), targets = random_values({5, 3}, 2), gold = golds({0, 4}, 2);
  const auto refused = [&]<class E>(E*, const Tensor& q, const Tensor& t, const Tensor& g,
                                    const std::vector<std::string>& words) {
    BOOST_CHECK_EXCEPTION(recall_at_k(q, t, g, one), E, says(words));
    BOOST_CHECK_EXCEPTION(ndcg_at_k(q, t, g, one), E, says(words));
    BOOST_CHECK_EXCEPTION(mean_reciprocal_rank(q, t, g), E, says(words));
  };
  ShapeError* const shape = nullptr;
  ValueError* const value = nullptr;
  refused(shape, queries, random_values({5, 4}, 2), gold, {"[2, 3]", "[5, 4]", "width"});
  refused(shape, queries.reshape({6}), targets, gold, {"[6]"});
  refused(shape, queries.slice(0, 0), targets, gold, {"[0, 3]"});
  refused(shape, queries, targets.slice(0, 0), gold, {"[0, 3]"});
  refused(shape, Tensor(), targets, gold, {"queries"});
  refused(shape, queries, targets, Tensor(), {"gold"});
  refused(shape, queries, targets, golds({0, 1, 2}, 3), {"gold is int64 [3, 1]", "[2]"});
  refused(static_cast<DTypeError*>(nullptr), queries, targets, gold.to(DType::kInt32), {"gold", "int32", "int64"});
  refused(value, queries, targets, golds({0, 5}, 2), {"gold 0 of query 1 is 5", "0 to 4"});
  refused(value, queries, targets, golds({0, 1, 3, -2}, 2), {"gold 1 of query 1 is -2"});
  refused(value, queries, targets, golds({0, 1, 3, 3}, 2), {"query 1", "gold 3 twice"});
  refused(value, queries, targets, golds({0, -1}, 2), {"query 1 has no gold"});
  refused(value, queries, targets, Tensor::zeros({2, 0}, DType::kInt64), {"query 0 has no gold"});
  BOOST_CHECK_EXCEPTION(recall_at_k(queries, targets, gold, std::vector{1, 0}), ValueError,
                        says({"recall_at_k", "k is 0"}));
  BOOST_CHECK_EXCEPTION(ndcg_at_k(queries, targets, gold, std::vector{-2}), ValueError, says({"ndcg_at_k", "k is -2"}));
}

BOOST_AUTO_TEST_SUITE_END()
