#pragma once

#include <concepts>
#include <cstdint>

#include "tapecache/core/tensor.h"

namespace tapecache::gradcache {

/// A batch of samples that can be cut: `size()` samples, `slice(b, e)` those of [b, e). A Tensor is cut along axis 0.
template <class T>
concept Splittable = std::same_as<T, Tensor> || requires(const T& batch, std::int64_t begin, std::int64_t end) {
  { batch.size() } -> std::convertible_to<std::int64_t>;
  { batch.slice(begin, end) } -> std::convertible_to<T>;
};

template <Splittable T>
std::int64_t sample_count(const T& batch) {
  if constexpr (std::same_as<T, Tensor>) return batch.size(0);
  else return static_cast<std::int64_t>(batch.size());
}

}  // namespace tapecache::gradcache
