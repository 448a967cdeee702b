#include "tapecache/models/linear_row.h"

#include "tapecache/ops/linear.h"
#include "tapecache/ops/normalize.h"

namespace tapecache::models::detail {

LinearRow::Parts LinearRow::parts() const {
  Parts parts;
  for (const Linear* layer : layers_) {
    parts.weights.emplace_back(layer->weight);
    parts.biases.push_back(layer->bias_or_none());
    parts.widths.push_back(layer->weight.value().size(0));
    parts.adapters.push_back(layer->adapter_->active() ? layer->adapter_.get() : nullptr);
    parts.adapted = parts.adapted || layer->adapter_->active();
  }
  return parts;
}

Variable LinearRow::operator()(const Variable& x, ops::ResultType result) const {
  const Parts own = parts();
  if (!own.adapted) return ops::multi_linear(x, own.weights, own.biases, result);
  return add_adapters(ops::multi_linear(x, own.weights, own.biases), own.adapters, own.widths,
                      {[&](std::span<const Variable> a) { return ops::multi_linear(x, a); }, [&] { return x; }});
}

ops::NormalizedLinear LinearRow::after(const ops::Norm& norm, const Variable& x, ops::KeepNorm keep,
                                       ops::ResultType result) const {
  const Parts own = parts();
  if (!own.adapted) return ops::normalized_linear(x, norm, own.weights, own.biases, keep, result);
  const auto [y, normalized] = ops::normalized_linear(x, norm, own.weights, own.biases, keep);
  const AdapterInput input{[&, &kept = normalized](std::span<const Variable> a) {
                             if (kept.defined()) return ops::multi_linear(kept, a);
                             return ops::normalized_linear(x, norm, a, {}, ops::KeepNorm::kNo).y;
                           },
                           [&, &kept = normalized] {
                             return kept.defined() ? kept : ops::layer_norm(x, norm.weight, norm.bias, norm.epsilon);
                           }};
  return {add_adapters(y, own.adapters, own.widths, input), normalized};
}

}  // namespace tapecache::models::detail
