#include "tapecache/gradcache/non_finite.h"

#include "tapecache/core/value_checks.h"

#include <algorithm>
#include <cstdint>

#include <fmt/format.h>

namespace tapecache::gradcache::detail {

std::string non_finite_place(const Tensor& values, const Chunks& chunks) {
  if (!values.defined() || values.numel() == 0 || !is_floating(values.dtype())) return {};
  const std::int64_t element = first_non_finite(values);
  if (element < 0) return {};
  const std::int64_t sample = element / (values.numel() / values.size(0)) + (chunks.parts.empty() ? 0 : chunks.begin());
  std::string place = fmt::format("not finite, first at sample {}", sample);
  if (chunks.parts.size() < 2) return place;
  const std::vector<std::int64_t>& order = chunks.order;
  const std::int64_t at = order.empty() ? sample : std::find(order.begin(), order.end(), sample) - order.begin();
  const auto chunk = std::find_if(chunks.parts.begin(), chunks.parts.end(), [&](const Chunk& c) { return at < c.end; });
  return place + fmt::format(", in chunk {} of {}", chunk - chunks.parts.begin(), chunks.parts.size());
}

std::string non_finite_loss(double loss) { return fmt::format("the loss is {}", loss); }

std::string non_finite_cause(const std::string& name, const Tensor& representations, const Chunks& chunks) {
  const std::string place = non_finite_place(representations, chunks);
  return place.empty() ? place : fmt::format("; the representations of tower '{}' are {}", name, place);
}

}  // namespace tapecache::gradcache::detail
