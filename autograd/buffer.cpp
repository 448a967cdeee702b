#include "tapecache/autograd/buffer.h"

#include <algorithm>

#include "tapecache/core/captured_step.h"

namespace tapecache {

namespace {

thread_local BufferGuard* innermost = nullptr;

}  // namespace

BufferGuard::BufferGuard() : outer_(std::exchange(innermost, this)) {}

BufferGuard::~BufferGuard() {
  innermost = outer_;
  try {
    restore();
  } catch (...) {  // of a device that failed, whose buffers are lost
  }
}

void BufferGuard::restore() {
  for (Noted& noted : std::exchange(noted_, {})) noted.buffer.copy_from(noted.before);
}

void BufferGuard::keep() {
  for (Noted& noted : std::exchange(noted_, {})) {
    if (outer_ && !outer_->knows(noted.buffer)) outer_->noted_.push_back(std::move(noted));
  }
}

bool BufferGuard::knows(const Tensor& buffer) const {
  return std::any_of(noted_.begin(), noted_.end(), [&](const Noted& noted) { return noted.buffer.raw() == buffer.raw(); });
}

void before_change(const Tensor& buffer) {
  // What is only recorded changes nothing yet.
  if (!innermost || CapturedStep::is_capturing() || innermost->knows(buffer)) return;
  innermost->noted_.push_back({buffer, buffer.clone()});
}

}  // namespace tapecache
