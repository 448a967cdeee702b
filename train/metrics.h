#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "tapecache/core/error.h"
#include "tapecache/core/tensor.h"

namespace tapecache::train {

struct LinearProbeOptions {
  int steps = 300;  ///< of full-batch AdamW
  double learning_rate = 0.1;
  double weight_decay = 1e-3;
};

/// Accuracy on held-out samples of multinomial logistic regression fitted to frozen features: features [n, width]
/// (each column standardised by the fitted samples, one that is constant among them left out), classes [n] (i64, from
/// 0). It is fitted on the host. A NaN is never right. Throws ShapeError, and ValueError for a class below 0.
double linear_probe(const Tensor& features, const Tensor& classes, const Tensor& held_out_features,
                    const Tensor& held_out_classes, const LinearProbeOptions& options = {});

/// Accuracy on held-out classes of always answering the most frequent of `classes` (i64 [n]).
double majority_class_accuracy(const Tensor& classes, const Tensor& held_out_classes);

}  // namespace tapecache::train

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

/// Scalars for TensorBoard: an event file, to be shown by `tensorboard --logdir FOLDER`.
class EventFile {
 public:
  /// Makes a new file `events.out.tfevents.…` in the folder, which is created where it is missing. With `resumed_step`,
  /// TensorBoard leaves out what older files of the folder have at that step and after. Throws FileError.
  explicit EventFile(const std::filesystem::path& folder, std::optional<std::int64_t> resumed_step = {});

  /// Adds a point to the curve `tag`. Throws FileError.
  void scalar(std::string_view tag, std::int64_t step, double value);
  /// Hands what was added to the system, so that readers see it. Throws FileError.
  void flush();

  const std::filesystem::path& path() const { return path_; }

 private:
  void add(std::string_view event);

  std::filesystem::path path_;
  std::ofstream file_;
};

}  // namespace tapecache::train
