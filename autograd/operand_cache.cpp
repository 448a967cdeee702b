#include "tapecache/autograd/operand_cache.h"

#include <algorithm>

#include "tapecache/autograd/autograd_context.h"
#include "tapecache/core/captured_step.h"

namespace tapecache::detail {

OperandCache::Value OperandCache::Value::of(const Tensor& tensor) {
  return {tensor.weak_storage(), tensor.offset(), tensor.shape(), tensor.version()};
}

bool OperandCache::Value::is(const Tensor& tensor) const {
  return storage.lock() == tensor.weak_storage().lock() && offset == tensor.offset() && shape == tensor.shape() &&
         version == tensor.version();
}

OperandCache::OperandCache(std::size_t packed_budget)
    : recorded_(CapturedStep::is_capturing()), packed_budget_(packed_budget) {}

OperandCache* OperandCache::current() {
  OperandCache* const cache = autograd_context.operands;
  return cache && cache->recorded_ == CapturedStep::is_capturing() ? cache : nullptr;
}

ScopedValue<OperandCache*> OperandCache::use() { return ScopedValue<OperandCache*>(autograd_context.operands, this); }

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
                     std::all_of(entry.sources.begin(), entry.sources.end(),
                                 [](const Source& s) { return s.value.is(s.parameter.value()); });
  return holds ? entry.made : Tensor();
}

void OperandCache::keep(std::span<const Parameter> parameters, Tensor made) {
  Entry& entry = entries_[key_of(parameters, made.dtype())];
  entry.sources.clear();
  for (const Parameter& parameter : parameters) entry.sources.push_back({parameter, Value::of(parameter.value())});
  entry.made = std::move(made);
  entry.replays = CapturedStep::replays();
}

Tensor OperandCache::find_packed(const Tensor& value, bool transposed) const {
  const auto found = packed_.find({value.weak_storage().lock().get(), value.offset(), transposed});
  if (found == packed_.end()) return {};
  const Packed& entry = found->second;
  return entry.replays == CapturedStep::replays() && entry.value.is(value) ? entry.made : Tensor();
}

void OperandCache::keep_packed(const Tensor& value, bool transposed, Tensor made) {
  Packed& entry = packed_[{value.weak_storage().lock().get(), value.offset(), transposed}];
  packed_bytes_ += made.bytes() - (entry.made.defined() ? entry.made.bytes() : 0);
  entry = {Value::of(value), std::move(made), CapturedStep::replays()};
}

bool OperandCache::clear() {
  const bool any = !entries_.empty() || !packed_.empty();
  entries_.clear();
  packed_.clear();
  packed_bytes_ = 0;
  return any;
}

}  // namespace tapecache::detail
