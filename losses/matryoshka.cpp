#include "tapecache/losses/losses.h"

#include <fmt/format.h>

#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/normalize.h"

namespace tapecache::losses {

Variable matryoshka(const std::function<Variable(std::span<const Variable>)>& loss,
                    std::span<const Variable> representations, const MatryoshkaOptions& options) {
  const std::vector<std::int64_t>& widths = options.widths;
  if (widths.empty() || (!options.weights.empty() && options.weights.size() != widths.size())) {
    throw ValueError(
        fmt::format("matryoshka: {} widths and {} weights, expected at least one width, and as many weights "
                    "or none",
                    widths.size(), options.weights.size()));
  }
  for (std::size_t i = 0; i < representations.size(); ++i) {
    const Variable& r = representations[i];
    for (const std::int64_t width : widths) {
      if (r.defined() && r.rank() >= 1 && width >= 1 && width <= r.size(-1)) continue;
      throw ValueError(
          fmt::format("matryoshka: width {} of representation {}, which is {}, expected 1 to its last axis", width, i,
                      describe(r.value())));
    }
  }
  Variable total;
  for (std::size_t k = 0; k < widths.size(); ++k) {
    std::vector<Variable> cut;
    for (const Variable& r : representations) {
      const Variable part = widths[k] == r.size(-1) ? r : ops::slice(r, -1, 0, widths[k]);
      cut.push_back(options.normalize ? ops::l2_normalize(part) : part);
    }
    const Variable own = ops::scale(loss(cut), options.weights.empty() ? 1.0 : options.weights[k]);
    total = total.defined() ? ops::add(total, own) : own;
  }
  return total;
}

}  // namespace tapecache::losses
