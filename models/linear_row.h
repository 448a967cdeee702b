#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "tapecache/models/linear_adapter.h"

#pragma GCC visibility push(hidden)

namespace tapecache::models::detail {

/// Several linear layers that are applied to one x as one product, with their outputs side by side.
class [[gnu::visibility("hidden")]] LinearRow {
 public:
  /// The layers must live as long as this.
  explicit LinearRow(std::vector<const Linear*> layers) : layers_(std::move(layers)) {}
  /// The result has type kComputed, whatever is asked for, if any layer has an adapter.
  Variable operator()(const Variable& x, ops::ResultType = ops::ResultType::kComputed) const;
  /// The same for norm(x), which backward computes again.
  ops::NormalizedLinear after(const ops::Norm& norm, const Variable& x, ops::KeepNorm, ops::ResultType) const;

 private:
  struct Parts {
    std::vector<Variable> weights, biases;
    std::vector<std::int64_t> widths;
    std::vector<const LinearAdapter*> adapters;  // null where there is none
    bool adapted = false;
  };
  Parts parts() const;

  std::vector<const Linear*> layers_;
};

}  // namespace tapecache::models::detail

#pragma GCC visibility pop
