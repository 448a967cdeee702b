#include "tapecache/autograd/operand_cache.h"

#include <algorithm>

#include "tapecache/core/captured_step.h"

namespace tapecache {

namespace {

thread_local OperandCache* in_force = nullptr;

}  // namespace

bool OperandCache::Source::is_unchanged() const {
  const Tensor& now = parameter.value();
  return storage.lock() == now.weak_storage().lock() && offset == now.offset() && shape == now.shape() &&
         version == now.version();
}

OperandCache::OperandCache() : recorded_(CapturedStep::is_capturing()) {}

OperandCache* OperandCache::current() {
  return in_force && in_force->recorded_ == CapturedStep::is_capturing() ? in_force : nullptr;
}

OperandCache::Key OperandCache::key_of(std::span<const Parameter> parameters, DType dtype) {
  Key key{{}, dtype};
  for (const Parameter& parameter : parameters) key.first.push_back(parameter.id());
  return key;
}

Tensor OperandCache::find(std::span<const Parameter> parameters, DType dtype) const {
  const auto found = entries_.find(key_of(parameters, dtype));
  if (found == entries_.end()) return {};
  const Entry& entry = found->second;
  const bool holds = entry.replays == CapturedStep::replays() &&
                     std::all_of(entry.sources.begin(), entry.sources.end(), [](const Source& s) { return s.is_unchanged(); });
  return holds ? entry.made : Tensor();
}

void OperandCache::keep(std::span<const Parameter> parameters, Tensor made) {
  Entry& entry = entries_[key_of(parameters, made.dtype())];
  entry.sources.clear();
  for (const Parameter& parameter : parameters) {
    const Tensor& value = parameter.value();
    entry.sources.push_back({parameter, value.weak_storage(), value.offset(), value.shape(), value.version()});
  }
  entry.made = std::move(made);
  entry.replays = CapturedStep::replays();
}

bool OperandCache::clear() {
  const bool any = !entries_.empty();
  entries_.clear();
  return any;
}

OperandScope::OperandScope(OperandCache& cache) : previous_(std::exchange(in_force, &cache)) {}

OperandScope::~OperandScope() { in_force = previous_; }

}  // namespace tapecache
