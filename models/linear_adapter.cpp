#include "tapecache/models/linear_adapter.h"

#include <algorithm>

#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/linear.h"

namespace tapecache::models::detail {

namespace {

/// scale · B of each, below one another and side by side: each reads its own columns of A x, and writes its own of y.
Variable joined_up(std::span<const LinearAdapter* const> adapters, std::span<const std::int64_t> widths) {
  std::int64_t total = 0;
  for (const std::int64_t width : widths) total += width;
  std::vector<Variable> columns;
  std::int64_t first = 0;
  for (std::size_t i = 0; i < adapters.size(); first += widths[i], ++i) {
    if (!adapters[i]) continue;
    const Parameter& b = adapters[i]->b;
    const auto zeros = [&](std::int64_t rows) {
      return Variable(Tensor::zeros({rows, b.value().size(1)}, b.value().dtype(), b.value().device()));
    };
    std::vector<Variable> column;
    if (first > 0) column.push_back(zeros(first));
    column.push_back(ops::scale(b, adapters[i]->scale));
    if (first + widths[i] < total) column.push_back(zeros(total - first - widths[i]));
    columns.push_back(column.size() == 1 ? column.front() : ops::concat(std::span<const Variable>(column), 0));
  }
  return columns.size() == 1 ? columns.front() : ops::concat(std::span<const Variable>(columns), 1);
}

}  // namespace

Variable add_adapters(const Variable& y, std::span<const LinearAdapter* const> adapters,
                      std::span<const std::int64_t> widths, const AdapterInput& input) {
  std::vector<const LinearAdapter*> active;
  std::ranges::copy_if(adapters, std::back_inserter(active), [](const LinearAdapter* a) { return a != nullptr; });
  if (active.empty()) return y;
  Variable down;
  if (std::ranges::any_of(active, &LinearAdapter::drops)) {
    const Variable x = input.value();
    std::vector<Variable> parts;
    for (const LinearAdapter* adapter : active) {
      parts.push_back(ops::linear(adapter->drops() ? ops::dropout(x, adapter->dropout) : x, adapter->a));
    }
    down = parts.size() == 1 ? parts.front() : ops::concat(std::span<const Variable>(parts), -1);
  } else {
    std::vector<Variable> weights;
    for (const LinearAdapter* adapter : active) weights.emplace_back(adapter->a);
    down = input.product(weights);
  }
  return ops::linear(down, joined_up(adapters, widths), {}, y);
}

}  // namespace tapecache::models::detail
