#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "image_encoder.h"
#include "process_group.h"
#include "retrieval_task.h"
#include "text_model.h"

namespace tapecache::program {

struct RetrievalFigures {
  std::int64_t queries = 0, targets = 0;
  std::map<int, double> recall = {}, ndcg = {};  ///< by k
  double mean_reciprocal_rank = 0;
};

struct Evaluation {
  RetrievalFigures forward;                      ///< anchors search for positives
  std::optional<RetrievalFigures> reverse = {};  ///< of images and texts, texts for images

  /// "recall@1" and so on, of images "image_to_text_recall@1", in the order they are shown.
  std::vector<std::pair<std::string, double>> named() const;
};

struct Prefixes {
  std::string query, passage;
};

/// The prefixes that the model's own prompts give, where they are not given.
Prefixes prefixes_for(const TextModel& model, const std::optional<std::string>& query,
                      const std::optional<std::string>& passage);

/// Throws FileError for a column of images' paths that is taken for texts, where the model could read the images.
void require_texts(const std::string& column, const PairsSource& source, const TextModel& model);

/// `images` is looked at where the task's queries are images. Each process encodes its share, and all find the same.
Evaluation evaluate(const TextModel& model, const ImageEncoder* images, const RetrievalTask& task,
                    const Prefixes& prefixes, const EmbedOptions& options, const ProcessGroup& group = {});

}  // namespace tapecache::program
