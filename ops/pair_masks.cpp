#include "tapecache/ops/pair_masks.h"

#include <fmt/format.h>

#include "tapecache/core/op_scope.h"
#include "tapecache/ops/call.h"
#include "tapecache/ops/checks.h"
#include "tapecache/ops/layout.h"

namespace tapecache::ops {

using kernels::PairMaskKernels;

namespace {

/// Whether each row · step, which is not negative, is below the limit.
bool one_for_each_row(std::int64_t rows, std::int64_t step, std::int64_t limit) {
  return rows == 0 || (limit > 0 && (step == 0 || rows - 1 <= (limit - 1) / step));
}

}  // namespace

Tensor diagonal(std::int64_t rows, std::int64_t cols, std::int64_t step, double value, DType dtype, Device device) {
  constexpr const char* kOp = "diagonal";
  const OpScope scope(kOp);
  if (rows < 0 || step < 0 || !one_for_each_row(rows, step, cols)) {
    throw ShapeError(fmt::format("{}: {} by {}, expected a column {} · row for each row", kOp, rows, cols, step));
  }
  Tensor diagonal = Tensor::zeros({rows, cols}, dtype, device);
  const Tensor element = Tensor::full({}, value, dtype, device);
  dispatch_floating(kOp, dtype, [&]<class T>() {
    detail::call(kOp, device, &kernels::LayoutKernels<T>::copy_blocks, rows, 1, element, 0, diagonal, cols + step,
                 kernels::Mode::kWrite);
  });
  return diagonal;
}

Tensor positive_pairs(const Tensor& labels, DType dtype, const CheckText& none) {
  constexpr const char* kOp = "positive_pairs";
  const OpScope scope(kOp);
  if (!labels.defined() || labels.rank() != 1 || labels.dtype() != DType::kInt64) {
    throw ShapeError(fmt::format("{}: labels are {}, expected int64 [n]", kOp, describe(labels)));
  }
  const std::int64_t n = labels.numel();
  const Device device = labels.device();
  Tensor pairs = Tensor::empty({n, n}, dtype, device);
  Tensor any = Tensor::empty({1, 1}, DType::kBool, device);
  dispatch_floating(kOp, dtype, [&]<class T>() {
    detail::call(kOp, device, &PairMaskKernels<T>::positive_pairs, n, labels, pairs, any);
  });
  require_true_in_each_row(any, none);
  return pairs;
}

Tensor false_negatives(const kernels::FalseNegatives& rule, const Tensor& similarities, const Tensor& positives,
                       double excluded, DType dtype) {
  constexpr const char* kOp = "false_negatives";
  const OpScope scope(kOp);
  const Shape shape{rule.rows, rule.cols};
  const auto fits = [&](const Tensor& t) { return t.defined() && t.dtype() == DType::kFloat64; };
  if (rule.positive_step < 0) {
    throw ValueError(fmt::format("{}: positives are {} apart, expected at least 0", kOp, rule.positive_step));
  }
  if ((rule.self && rule.rows > rule.cols) ||
      (rule.kept_step > 0 && !one_for_each_row(rule.rows, rule.kept_step, rule.cols))) {
    throw ShapeError(fmt::format("{}: similarities are {}, expected a column for each row: {} · row", kOp,
                                 to_string(shape), rule.self ? 1 : rule.kept_step));
  }
  if (!fits(similarities) || !fits(positives) || similarities.shape() != shape ||
      !one_for_each_row(rule.rows, rule.positive_step, positives.numel()) ||
      positives.device() != similarities.device()) {
    throw ShapeError(fmt::format("{}: similarities are {} and positives {}, expected float64 {} and one for each row",
                                 kOp, describe(similarities), describe(positives), to_string(shape)));
  }
  Tensor mask = Tensor::empty(shape, dtype, similarities.device());
  dispatch_floating(kOp, dtype, [&]<class T>() {
    detail::call(kOp, mask.device(), &PairMaskKernels<T>::false_negatives, rule, similarities, positives,
                 static_cast<T>(excluded), mask);
  });
  return mask;
}

Tensor excluded_pairs(const PairIds& ids, std::int64_t queries, std::int64_t targets, DType dtype) {
  constexpr const char* kOp = "excluded_pairs";
  const OpScope scope(kOp);
  const auto fits = [](const Tensor& t, std::int64_t count) {
    return !t.defined() || (t.dtype() == DType::kInt64 && t.shape() == Shape{count});
  };
  const bool beside = !ids.queries.defined() || !ids.targets.defined() || ids.queries.device() == ids.targets.device();
  if (queries < 1 || targets < 1 || targets % queries != 0 || !ids.some() || !beside || !fits(ids.queries, queries) ||
      !fits(ids.targets, targets)) {
    throw ShapeError(
        fmt::format("{}: ids of {} queries are {} and those of {} targets {}, expected int64 of each, on one "
                    "device, and targets a multiple of queries",
                    kOp, queries, describe(ids.queries), targets, describe(ids.targets)));
  }
  const Device device = ids.queries.defined() ? ids.queries.device() : ids.targets.device();
  Tensor mask = Tensor::empty({queries, targets}, dtype, device);
  dispatch_floating(kOp, dtype, [&]<class T>() {
    detail::call(kOp, device, &PairMaskKernels<T>::excluded_pairs, ids.pairs(targets / queries), queries, targets,
                 mask);
  });
  return mask;
}

Tensor equal_pairs(const PairKeys& keys, const PairBlock& block, DType dtype) {
  constexpr const char* kOp = "equal_pairs";
  const OpScope scope(kOp);
  if (!keys.some()) throw ValueError(fmt::format("{}: no keys, expected those of one kind at least", kOp));
  // Queries stand before the targets, each as its own positive, which the kernel compares with what comes after.
  const std::int64_t columns = block.queries + block.targets;
  const auto joined = [&](const Tensor& queries, const Tensor& targets) {
    if (!queries.defined()) return Tensor();
    Tensor both = Tensor::empty({columns}, DType::kInt64, queries.device());
    both.slice(0, block.queries).copy_from(queries.slice(block.first_query, block.first_query + block.queries));
    both.slice(block.queries, columns).copy_from(targets.slice(block.first_target, block.first_target + block.targets));
    return both;
  };
  const PairIds ids{joined(keys.queries, keys.target_queries), joined(keys.positives, keys.targets)};
  const Device device = keys.queries.defined() ? keys.queries.device() : keys.positives.device();
  Tensor mask = Tensor::empty({block.queries, columns}, dtype, device);
  dispatch_floating(kOp, dtype, [&]<class T>() {
    detail::call(kOp, device, &PairMaskKernels<T>::excluded_pairs, ids.pairs(1), block.queries, columns, mask);
  });
  return ops::slice(Variable(mask), 1, block.queries, columns).value();
}

}  // namespace tapecache::ops
