#pragma once

#include <string>

#include "tapecache/core/tensor.h"
#include "tapecache/gradcache/chunks.h"

#pragma GCC visibility push(hidden)

/// Where NaN and Inf lie, for the messages of a step. Private to gradcache.
namespace tapecache::gradcache::detail {

/// "not finite, first at sample 5, in chunk 1 of 4", of values whose axis 0 is the batch; the chunk is left out where
/// there is but one. Empty where all elements are finite or there are none.
std::string non_finite_place(const Tensor& values, const Chunks& chunks = {});

/// "the loss is nan".
std::string non_finite_loss(double loss);
/// What follows it, about the representations of `name` (a tower's, or one of its outputs'); empty where they are
/// finite.
std::string non_finite_cause(const std::string& name, const Tensor& representations, const Chunks& chunks = {});

}  // namespace tapecache::gradcache::detail

#pragma GCC visibility pop
