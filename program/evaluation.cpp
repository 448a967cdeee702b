#include "evaluation.h"

#include <array>

#include <fmt/format.h>

#include "tapecache/train/retrieval.h"

namespace tapecache::program {

namespace {

constexpr std::array kRecallAt{1, 5, 10};
constexpr std::array kNdcgAt{10};

}  // namespace

std::vector<std::pair<std::string, double>> RetrievalFigures::named() const {
  std::vector<std::pair<std::string, double>> all;
  for (const auto& [k, value] : recall) all.emplace_back(fmt::format("recall@{}", k), value);
  all.emplace_back("mrr", mean_reciprocal_rank);
  for (const auto& [k, value] : ndcg) all.emplace_back(fmt::format("ndcg@{}", k), value);
  return all;
}

Prefixes prefixes_for(const TextModel& model, const std::optional<std::string>& query,
                      const std::optional<std::string>& passage) {
  return {query ? *query : model.prompt({"query"}),
          passage ? *passage : model.prompt({"document", "passage", "corpus"})};
}

RetrievalFigures evaluate(const TextModel& model, const RetrievalTask& task, const Prefixes& prefixes,
                          const EmbedOptions& options) {
  EmbedOptions of_queries = options, of_targets = options;
  of_queries.prefix = prefixes.query;
  of_targets.prefix = prefixes.passage;
  const Tensor queries = model.comparable(model.embed(task.queries, of_queries));
  const Tensor targets = model.comparable(model.embed(task.targets, of_targets));
  const Tensor gold = task.gold_rows();
  RetrievalFigures figures;
  figures.queries = queries.size(0);
  figures.targets = targets.size(0);
  figures.recall = train::recall_at_k(queries, targets, gold, kRecallAt);
  figures.mean_reciprocal_rank = train::mean_reciprocal_rank(queries, targets, gold);
  figures.ndcg = train::ndcg_at_k(queries, targets, gold, kNdcgAt);
  return figures;
}

}  // namespace tapecache::program
