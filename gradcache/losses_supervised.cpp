#include "tapecache/gradcache/losses_supervised.h"

#include <map>
#include <vector>

#include <fmt/format.h>

#include "tapecache/gradcache/loss_checks.h"
#include "tapecache/ops/cross_entropy.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/matmul.h"
#include "tapecache/ops/normalize.h"
#include "tapecache/ops/reduce.h"

namespace tapecache::gradcache {

namespace {

Variable inverse_temperature(const char* loss, const Variable& like, double temperature) {
  if (!(temperature > 0)) {
    throw ValueError(fmt::format("{}: temperature is {}, expected above 0", loss, temperature));
  }
  return detail::constant_like(like, 1 / temperature);
}

/// The diagonal left out: an anchor is no candidate of its own.
Variable without_itself(const Variable& logits) {
  const std::int64_t n = logits.size(0);
  return ops::add(logits, detail::marked(logits, n, n, 0, 1, detail::kExcluded));
}

/// Row i has 1 / (|P(i)| · anchors) at its positives; `anchors` gets 1 / anchors where row i has one.
struct Positives {
  Tensor pairs, anchors;
};

Positives positives_of(const std::vector<std::int64_t>& labels) {
  const auto n = static_cast<std::int64_t>(labels.size());
  std::map<std::int64_t, std::int64_t> counts;
  for (const std::int64_t label : labels) ++counts[label];
  std::int64_t anchors = 0;
  for (const std::int64_t label : labels) anchors += counts[label] > 1 ? 1 : 0;
  if (anchors == 0) {
    throw ValueError(fmt::format("sup_con: no two of {} labels are equal, so that nothing is positive", n));
  }
  Positives positives{Tensor::zeros({n, n}, DType::kFloat64), Tensor::zeros({n}, DType::kFloat64)};
  double* pairs = positives.pairs.mutable_data<double>();
  double* rows = positives.anchors.mutable_data<double>();
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int64_t label = labels[static_cast<std::size_t>(i)], others = counts[label] - 1;
    if (others == 0) continue;
    rows[i] = 1 / static_cast<double>(anchors);
    for (std::int64_t j = 0; j < n; ++j) {
      if (j != i && labels[static_cast<std::size_t>(j)] == label) {
        pairs[i * n + j] = rows[i] / static_cast<double>(others);
      }
    }
  }
  return positives;
}

}  // namespace

Variable nt_xent(const Variable& a, const Variable& b, double temperature) {
  detail::require_pairs("nt_xent", a, b, "a", "b");
  return nt_xent(a, b, inverse_temperature("nt_xent", a, temperature));
}

Variable nt_xent(const Variable& a, const Variable& b, const Variable& scale) {
  detail::require_pairs("nt_xent", a, b, "a", "b");
  detail::require_scalar("nt_xent", "scale", scale);
  const std::int64_t n = a.size(0);
  const std::vector<Variable> views{a, b};
  const Variable anchors = ops::l2_normalize(ops::concat(views));
  Tensor other = Tensor::empty({2 * n}, DType::kInt64);
  for (std::int64_t i = 0; i < 2 * n; ++i) other.mutable_data<std::int64_t>()[i] = (i + n) % (2 * n);
  return ops::cross_entropy(without_itself(detail::scaled_logits(anchors, anchors, scale)), other);
}

Variable sup_con(const Variable& representations, const Tensor& labels, double temperature) {
  detail::require_rows("sup_con", representations, representations, "representations", "representations");
  return sup_con(representations, labels, inverse_temperature("sup_con", representations, temperature));
}

Variable sup_con(const Variable& representations, const Tensor& labels, const Variable& scale) {
  detail::require_rows("sup_con", representations, representations, "representations", "representations");
  detail::require_scalar("sup_con", "scale", scale);
  const Shape expected{representations.size(0)};
  const bool integer = labels.defined() && (labels.dtype() == DType::kInt32 || labels.dtype() == DType::kInt64);
  if (!integer || labels.shape() != expected) {
    throw ShapeError(fmt::format("sup_con: labels are {}, expected int32 or int64 {}", describe(labels),
                                 to_string(expected)));
  }
  const Positives positives = positives_of(labels.to(DType::kInt64).to_vector<std::int64_t>());
  const auto like = [&](const Tensor& t) {
    return Variable(t.to(representations.dtype()).to(representations.device()));
  };
  const Variable anchors = ops::l2_normalize(representations);
  const Variable logits = detail::scaled_logits(anchors, anchors, scale);
  const Variable normalizers = ops::logsumexp(without_itself(logits), 1);
  // Σᵢ (lseᵢ - mean of zᵢₚ over p ∈ P(i)) / anchors; the logits as they are, or 0 would multiply what stands for -Inf
  return ops::subtract(ops::sum(ops::multiply(normalizers, like(positives.anchors))),
                       ops::sum(ops::multiply(logits, like(positives.pairs))));
}

}  // namespace tapecache::gradcache
