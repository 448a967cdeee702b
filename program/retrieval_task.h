#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "pairs_file.h"
#include "tapecache/core/tensor.h"

namespace tapecache::program {

/// Pairs as a search: for every anchor, its positive is to be found among all texts of the right side. Equal texts
/// count once; an anchor with several positives has as many that are right.
struct RetrievalTask {
  std::vector<std::string> queries = {}, targets = {};
  std::vector<std::vector<std::int64_t>> gold = {};  ///< of each query, rows of the targets
  std::vector<ImageFile> images = {};                ///< the queries, where they are images
  PairsSource source = {};

  explicit RetrievalTask(const Pairs& pairs);
  /// i64 [queries, golds], filled up with -1.
  Tensor gold_rows() const;
  /// The same of each target, rows of the queries, for the search the other way round; all targets have one then.
  Tensor reversed_gold_rows() const;
  /// Of its texts, and of which belong together.
  std::uint64_t fingerprint() const;
};

}  // namespace tapecache::program
