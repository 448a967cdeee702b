#pragma once

#include <map>
#include <span>

#include "tapecache/core/tensor.h"

namespace tapecache::train {

/// recall@k of retrieval: the share of queries [n, width] whose own target (the row of the same number in targets
/// [n, width]) is among the k targets of largest inner product. Ties count against the query, and a NaN never is a
/// hit. Throws ShapeError, and ValueError for a k below 1.
std::map<int, double> recall_at_k(const Tensor& queries, const Tensor& targets, std::span<const int> ks);

struct LinearProbeOptions {
  int steps = 300;            ///< of full-batch AdamW
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
