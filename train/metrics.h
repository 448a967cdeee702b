#pragma once

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
