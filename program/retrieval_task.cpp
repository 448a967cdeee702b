#include "retrieval_task.h"

#include <algorithm>
#include <unordered_map>

#include "fingerprint.h"

namespace tapecache::program {

namespace {

/// The row of a text among those that differ, where it is added if it is new.
class DistinctTexts {
 public:
  explicit DistinctTexts(std::vector<std::string>& texts) : texts_(texts) {}
  std::int64_t row(const std::string& text) {
    const auto [found, added] = rows_.emplace(text, static_cast<std::int64_t>(texts_.size()));
    if (added) texts_.push_back(text);
    return found->second;
  }

 private:
  std::vector<std::string>& texts_;
  std::unordered_map<std::string, std::int64_t> rows_;
};

}  // namespace

RetrievalTask::RetrievalTask(const Pairs& pairs) : source(pairs.source) {
  DistinctTexts distinct_queries(queries), distinct_targets(targets);
  for (std::size_t i = 0; i < pairs.anchors.size(); ++i) {
    const auto query = static_cast<std::size_t>(distinct_queries.row(pairs.anchors[i]));
    const std::int64_t target = distinct_targets.row(pairs.positives[i]);
    if (pairs.images && gold.size() < queries.size()) images.push_back(pairs.image(static_cast<std::int64_t>(i)));
    gold.resize(queries.size());
    if (std::ranges::find(gold[query], target) == gold[query].end()) gold[query].push_back(target);
  }
  for (const std::string& negative : pairs.negatives) distinct_targets.row(negative);
}

namespace {

Tensor filled_up(const std::vector<std::vector<std::int64_t>>& gold) {
  std::size_t most = 1;
  for (const auto& rows : gold) most = std::max(most, rows.size());
  std::vector<std::int64_t> all;
  for (const auto& rows : gold) {
    all.insert(all.end(), rows.begin(), rows.end());
    all.resize(all.size() + most - rows.size(), -1);
  }
  return Tensor::from(all, {static_cast<std::int64_t>(gold.size()), static_cast<std::int64_t>(most)});
}

}  // namespace

Tensor RetrievalTask::gold_rows() const { return filled_up(gold); }

Tensor RetrievalTask::reversed_gold_rows() const {
  std::vector<std::vector<std::int64_t>> reversed(targets.size());
  for (std::size_t query = 0; query < gold.size(); ++query) {
    for (const std::int64_t target : gold[query]) {
      reversed[static_cast<std::size_t>(target)].push_back(static_cast<std::int64_t>(query));
    }
  }
  return filled_up(reversed);
}

std::uint64_t RetrievalTask::fingerprint() const {
  Fingerprint all;
  for (const std::string& text : queries) all.add(text);
  for (const std::string& text : targets) all.add(text);
  const Tensor right = gold_rows();
  all.add(std::span(right.raw(), right.bytes()));
  return all.value();
}

}  // namespace tapecache::program
