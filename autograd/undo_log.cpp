#include "tapecache/autograd/undo_log.h"

#include <algorithm>
#include <utility>

#include "tapecache/autograd/autograd_context.h"
#include "tapecache/core/captured_step.h"

namespace tapecache {

UndoLog::UndoLog() : outer_(detail::autograd_context.undo), innermost_(detail::autograd_context.undo, this) {}

UndoLog::~UndoLog() {
  try {
    restore();
  } catch (...) {  // of a device that failed, whose buffers are lost
  }
}

void UndoLog::restore() {
  const std::vector<Noted> noted = std::exchange(noted_, {});
  // From the last to the first, since one may be part of another.
  for (auto one = noted.rbegin(); one != noted.rend(); ++one) Tensor(one->buffer).copy_from(one->before);
}

void UndoLog::keep() {
  if (outer_) {
    outer_->noted_.reserve(outer_->noted_.size() + noted_.size());
    for (Noted& noted : noted_) {
      if (!outer_->knows(noted.buffer)) outer_->noted_.push_back(std::move(noted));
    }
  }
  noted_.clear();
}

/// Whether what all of the buffer held is noted.
bool UndoLog::knows(const Tensor& buffer) const {
  return std::any_of(noted_.begin(), noted_.end(), [&](const Noted& noted) {
    return noted.buffer.shares_storage(buffer) && noted.buffer.offset() <= buffer.offset() &&
           buffer.offset() + buffer.bytes() <= noted.buffer.offset() + noted.buffer.bytes();
  });
}

void UndoLog::before_gradients(std::span<const Parameter> parameters) {
  if (outer_) outer_->before_gradients(parameters);
}

void before_change(const Tensor& buffer) {
  UndoLog* const innermost = detail::autograd_context.undo;
  // What is only recorded changes nothing yet.
  if (!innermost || CapturedStep::is_capturing() || innermost->knows(buffer)) return;
  innermost->noted_.push_back({buffer, buffer.clone()});
}

}  // namespace tapecache
