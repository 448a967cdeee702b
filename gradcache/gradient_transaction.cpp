#include "tapecache/gradcache/gradient_transaction.h"

#include <algorithm>

namespace tapecache::gradcache {

GradientTransaction::~GradientTransaction() {
  if (!committed_) roll_back();
}

void GradientTransaction::add(std::span<const Parameter> parameters) {
  for (const Parameter& parameter : parameters) {
    const bool known = std::any_of(entries_.begin(), entries_.end(),
                                   [&](const Entry& entry) { return entry.parameter == parameter; });
    if (known) continue;
    entries_.push_back({parameter, parameter.gradient()});
    entries_.back().parameter.clear_gradient();
  }
}

void GradientTransaction::clear() {
  for (Entry& entry : entries_) entry.parameter.clear_gradient();
}

void GradientTransaction::keep_random_state() {
  for (Entry& entry : entries_) entry.parameter.mutable_gradient() = entry.before;
  entries_.clear();
}

void GradientTransaction::roll_back() {
  keep_random_state();
  random_state() = random_;
}

void GradientTransaction::commit() {
  for (Entry& entry : entries_) {
    Tensor& gradient = entry.parameter.mutable_gradient();
    if (!gradient.defined()) gradient = entry.before;
    else if (entry.before.defined()) gradient.accumulate(entry.before);
  }
  committed_ = true;
}

std::vector<Parameter> GradientTransaction::with_gradient() const {
  std::vector<Parameter> found;
  for (const Entry& entry : entries_) {
    if (entry.parameter.gradient().defined()) found.push_back(entry.parameter);
  }
  return found;
}

}  // namespace tapecache::gradcache
