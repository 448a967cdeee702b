#include "tapecache/losses/losses.h"

#include <fmt/format.h>

#include "tapecache/losses/checks.h"
#include "tapecache/ops/checks.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/normalize.h"

namespace tapecache::losses {

Variable matryoshka(const std::function<Variable(std::span<const Variable>)>& loss,
                    std::span<const Variable> representations, const MatryoshkaOptions& options) {
  constexpr const char* kLoss = "matryoshka";
  if (!loss) throw ValueError(fmt::format("{}: the loss is an empty function", kLoss));
  const std::vector<std::int64_t>& widths = options.widths;
  if (widths.empty() || (!options.weights.empty() && options.weights.size() != widths.size())) {
    throw ValueError(
        fmt::format("{}: {} widths and {} weights, expected at least one width, and as many weights or none", kLoss,
                    widths.size(), options.weights.size()));
  }
  for (std::size_t i = 0; i < representations.size(); ++i) {
    const Variable& r = representations[i];
    ops::detail::require_floating(kLoss, fmt::format("representation {}", i).c_str(), r, 1);
    for (const std::int64_t width : widths) {
      if (width >= 1 && width <= r.size(-1)) continue;
      throw ValueError(fmt::format("{}: width {} of representation {}, which is {}, expected 1 to its last axis", kLoss,
                                   width, i, describe(r.value())));
    }
  }
  for (std::size_t k = 0; k < options.weights.size(); ++k) {
    const DType dtype = representations.empty() ? DType::kFloat64 : representations[0].dtype();
    detail::require_finite(kLoss, fmt::format("weight {}", k), options.weights[k], dtype);
  }
  Variable total;
  for (std::size_t k = 0; k < widths.size(); ++k) {
    std::vector<Variable> cut;
    for (const Variable& r : representations) {
      const Variable part = widths[k] == r.size(-1) ? r : ops::slice(r, -1, 0, widths[k]);
      cut.push_back(options.normalize ? ops::l2_normalize(part) : part);
    }
    const Variable own = loss(cut);
    ops::detail::require_scalar_like(kLoss, "the loss", own, total.defined() ? total : own);
    const Variable weighted = ops::scale(own, options.weights.empty() ? 1.0 : options.weights[k]);
    total = total.defined() ? ops::add(total, weighted) : weighted;
  }
  return total;
}

}  // namespace tapecache::losses
