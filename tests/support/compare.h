#pragma once

#include <cmath>
#include <cstring>
#include <limits>
#include <span>
#include <vector>

#include "tapecache/core/tensor.h"

namespace tapecache::testing {

inline constexpr double kInfinity = std::numeric_limits<double>::infinity();
inline constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

/// Largest |a - b| / max(1, |b|) over all elements: NaN where either holds one, infinity where the counts differ.
/// Compare it as `<=`, so that NaN fails.
inline double max_difference(std::span<const double> a, std::span<const double> b) {
  if (a.size() != b.size()) return kInfinity;
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double difference = a[i] == b[i] ? 0 : std::abs(a[i] - b[i]) / std::fmax(1, std::abs(b[i]));
    if (std::isnan(difference)) return difference;
    worst = std::fmax(worst, difference);
  }
  return worst;
}

inline std::vector<double> doubles(const Tensor& tensor) { return tensor.to(DType::kFloat64).to_vector<double>(); }

inline double max_difference(const Tensor& a, const Tensor& b) { return max_difference(doubles(a), doubles(b)); }

inline bool same_bits(const Tensor& a, const Tensor& b) {
  if (a.shape() != b.shape() || a.dtype() != b.dtype()) return false;
  return std::memcmp(a.to(Device::cpu()).raw(), b.to(Device::cpu()).raw(), a.bytes()) == 0;
}

}  // namespace tapecache::testing
