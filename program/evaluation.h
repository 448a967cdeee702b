#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "retrieval_task.h"
#include "text_model.h"

namespace tapecache::program {

struct RetrievalFigures {
  std::int64_t queries = 0, targets = 0;
  std::map<int, double> recall = {}, ndcg = {};  ///< by k
  double mean_reciprocal_rank = 0;

  /// "recall@1" and so on, in the order they are shown.
  std::vector<std::pair<std::string, double>> named() const;
};

struct Prefixes {
  std::string query, passage;
};

/// The prefixes that the model's own prompts give, where they are not given.
Prefixes prefixes_for(const TextModel& model, const std::optional<std::string>& query,
                      const std::optional<std::string>& passage);

RetrievalFigures evaluate(const TextModel& model, const RetrievalTask& task, const Prefixes& prefixes,
                          const EmbedOptions& options);

}  // namespace tapecache::program
