#include "evaluation.h"

#include <array>

#include <fmt/format.h>

#include "tapecache/core/error.h"
#include "tapecache/train/metrics.h"

namespace tapecache::program {

namespace {

constexpr std::array kRecallAt{1, 5, 10};
constexpr std::array kNdcgAt{10};

RetrievalFigures search(const Tensor& queries, const Tensor& targets, const Tensor& gold) {
  RetrievalFigures figures;
  figures.queries = queries.size(0);
  figures.targets = targets.size(0);
  figures.recall = train::recall_at_k(queries, targets, gold, kRecallAt);
  figures.mean_reciprocal_rank = train::mean_reciprocal_rank(queries, targets, gold);
  figures.ndcg = train::ndcg_at_k(queries, targets, gold, kNdcgAt);
  return figures;
}

}  // namespace

std::vector<std::pair<std::string, double>> Evaluation::named() const {
  std::vector<std::pair<std::string, double>> all;
  const auto add = [&all](const RetrievalFigures& figures, const std::string& direction) {
    for (const auto& [k, value] : figures.recall) all.emplace_back(fmt::format("{}recall@{}", direction, k), value);
    all.emplace_back(direction + "mrr", figures.mean_reciprocal_rank);
    for (const auto& [k, value] : figures.ndcg) all.emplace_back(fmt::format("{}ndcg@{}", direction, k), value);
  };
  add(forward, reverse ? "image_to_text_" : "");
  if (reverse) add(*reverse, "text_to_image_");
  return all;
}

Prefixes prefixes_for(const TextModel& model, const std::optional<std::string>& query,
                      const std::optional<std::string>& passage) {
  return {query ? *query : model.prompt({"query"}),
          passage ? *passage : model.prompt({"document", "passage", "corpus"})};
}

void require_texts(const std::string& column, const PairsSource& source, const TextModel& model) {
  if (column.empty() || !model.model().encodes_images()) return;
  throw FileError(fmt::format(
      "{}: column '{}' has the paths of images, which would be taken for texts; of a model of images and "
      "texts, --image-column {} --caption-column {} takes the images themselves",
      source.file.string(), column, column, column == source.columns[0] ? source.columns[1] : source.columns[0]));
}

Evaluation evaluate(const TextModel& model, const ImageEncoder* images, const RetrievalTask& task,
                    const Prefixes& prefixes, const EmbedOptions& options, const ProcessGroup& group) {
  EmbedOptions of_queries = options, of_targets = options;
  of_queries.prefix = prefixes.query;
  of_targets.prefix = prefixes.passage;
  const bool of_images = !task.images.empty();
  const Shares of_all_queries = group.shares(static_cast<std::int64_t>(task.queries.size()));
  const Shares of_all_targets = group.shares(static_cast<std::int64_t>(task.targets.size()));
  Tensor queries, targets;
  group.together([&] {
    try {
      queries = of_images ? images->embed(of_all_queries.of(task.images), options)
                          : model.embed(of_all_queries.of(task.queries), of_queries);
      targets = model.embed(of_all_targets.of(task.targets), of_targets);
    } catch (const TextWithoutTokens& e) {
      throw task.source.error(e.text(), e.what());
    }
  });
  queries = model.comparable(group.gathered(queries, of_all_queries));
  targets = model.comparable(group.gathered(targets, of_all_targets));
  Evaluation evaluation{search(queries, targets, task.gold_rows())};
  if (of_images) evaluation.reverse = search(targets, queries, task.reversed_gold_rows());
  return evaluation;
}

}  // namespace tapecache::program
