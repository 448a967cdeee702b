#include "tapecache/losses/similarity.h"

#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/logit_tile.h"
#include "tapecache/ops/reduce.h"

namespace tapecache::losses::detail {

namespace {

/// sum[i] += factors[i] · x[i]
void add_rows(const Tensor& factors, const Tensor& x, Tensor& sum) {
  const Variable of_rows = ops::reshape(factors.to(x.dtype()), {x.size(0), 1});
  sum.accumulate((Variable(x) * of_rows).value());
}

}  // namespace

Tensor DotProducts::logits(const Part& rows, const Part& candidates, const Tensor& scale) const {
  return ops::similarities((Variable(rows.rows) * Variable(scale)).value(), candidates.rows);
}

void DotProducts::add_gradients(const Tensor& of_logits, const Part& rows, const Part& candidates, const Tensor& scale,
                                Tensor& of_rows, Tensor& of_candidates) const {
  ops::add_product(of_logits, candidates.rows, of_rows);
  if (!of_candidates.defined()) return;
  ops::add_transposed_product(of_logits, (Variable(rows.rows) * Variable(scale)).value(), of_candidates);
}

Tensor DotProducts::scores_of_positives(const Part& rows, const Tensor& positives) const {
  return ops::sum(Variable(rows.rows) * Variable(positives), 1).value().to(DType::kFloat64);
}

void DotProducts::add_gradients_of_positives(const Tensor& of_scores, const Part& rows, const Tensor& positives,
                                             Tensor of_rows, Tensor of_positives) const {
  if (of_rows.defined()) add_rows(of_scores, positives, of_rows);
  if (of_positives.defined()) add_rows(of_scores, rows.rows, of_positives);
}

}  // namespace tapecache::losses::detail
