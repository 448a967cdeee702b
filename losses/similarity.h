#pragma once

#include "tapecache/autograd/variable.h"

#pragma GCC visibility push(hidden)

namespace tapecache::losses::detail {

/// Some rows of a set, the first of which is number `first`: own rows among own, candidates among those of all ranks.
struct Part {
  Tensor rows;  // [count, …]
  std::int64_t first = 0;
};

/// How a row scores a candidate. Scores are linear in the length of a row, so that Σ row ∘ d loss / d row is
/// Σ score · d loss / d score. What is computed here is computed in the type of the rows, whatever `Autocast` says,
/// since it is computed again in backward.
class Similarity {
 public:
  virtual ~Similarity() = default;

  /// scale · the score of each row with each candidate: [rows, candidates].
  virtual Tensor logits(const Part& rows, const Part& candidates, const Tensor& scale) const = 0;
  /// Of gradients G of the logits, adds those of Σ G ∘ scores to `of_rows`, and of Σ G ∘ logits to `of_candidates`,
  /// unless it is undefined.
  virtual void add_gradients(const Tensor& of_logits, const Part& rows, const Part& candidates, const Tensor& scale,
                             Tensor& of_rows, Tensor& of_candidates) const = 0;
  /// The score of each row with its positive, f64 [rows].
  virtual Tensor scores_of_positives(const Part& rows, const Tensor& positives) const = 0;
  /// Of gradients of these scores, adds those of rows and of positives, unless they are undefined.
  virtual void add_gradients_of_positives(const Tensor& of_scores, const Part& rows, const Tensor& positives,
                                          Tensor of_rows, Tensor of_positives) const = 0;
};

/// Products of rows [rows, width] and candidates [candidates, width].
class DotProducts final : public Similarity {
 public:
  Tensor logits(const Part& rows, const Part& candidates, const Tensor& scale) const override;
  void add_gradients(const Tensor& of_logits, const Part& rows, const Part& candidates, const Tensor& scale,
                     Tensor& of_rows, Tensor& of_candidates) const override;
  Tensor scores_of_positives(const Part& rows, const Tensor& positives) const override;
  void add_gradients_of_positives(const Tensor& of_scores, const Part& rows, const Tensor& positives, Tensor of_rows,
                                  Tensor of_positives) const override;
};

}  // namespace tapecache::losses::detail

#pragma GCC visibility pop
