#include "tapecache/gradcache/gradient_transaction.h"

#include <algorithm>
#include <utility>

#include "tapecache/core/captured_step.h"

namespace tapecache::gradcache {

GradientTransaction::GradientTransaction(Adopts adopts) : random_(random_state()), adopts_(adopts) {}

GradientTransaction::~GradientTransaction() {
  if (committed_) return;
  try {
    roll_back();
  } catch (...) {  // of a device that failed
  }
}

void GradientTransaction::add(std::span<const Parameter> parameters) {
  UndoLog::before_gradients(parameters);
  for (const Parameter& parameter : parameters) {
    const bool known =
        std::any_of(entries_.begin(), entries_.end(), [&](const Entry& entry) { return entry.parameter == parameter; });
    if (known) continue;
    entries_.push_back({parameter, parameter.gradient()});
    entries_.back().parameter.clear_gradient();
  }
}

void GradientTransaction::before_gradients(std::span<const Parameter> parameters) {
  if (adopts_ == Adopts::kInner) add(parameters);
  else UndoLog::before_gradients(parameters);
}

void GradientTransaction::clear() {
  for (Entry& entry : entries_) entry.parameter.clear_gradient();
}

void GradientTransaction::keep_random_state() {
  for (Entry& entry : entries_) entry.parameter.mutable_gradient() = entry.before;
  entries_.clear();
  restore();
}

void GradientTransaction::roll_back() {
  keep_random_state();
  random_state() = random_;
}

std::vector<Parameter> GradientTransaction::parameters() const {
  std::vector<Parameter> known;
  for (const Entry& entry : entries_) known.push_back(entry.parameter);
  return known;
}

std::vector<Parameter> GradientTransaction::join(const std::function<void(std::span<const Parameter>)>& before_hooks) {
  std::vector<Parameter> given;
  for (Entry& entry : entries_) {
    Tensor& gradient = entry.parameter.mutable_gradient();
    if (gradient.defined()) {
      if (entry.before.defined()) {
        // In place, a step that is replayed adds to what the one before it left.
        if (CapturedStep::is_capturing()) std::swap(gradient, entry.before);
        gradient.accumulate(entry.before);
      }
      given.push_back(entry.parameter);
    } else {
      gradient = entry.before;
    }
  }
  if (before_hooks) before_hooks(given);
  for (Parameter& parameter : given) parameter.run_hooks();
  return given;
}

void GradientTransaction::keep_joined() {
  keep();
  committed_ = true;
}

}  // namespace tapecache::gradcache
