#pragma once

#include "tapecache/core/language.h"

namespace tapecache {

/// Names the running operation for the messages of the floors below it (allocation, threads). Scopes nest.
class OpScope {
 public:
  explicit OpScope(const char* name) : previous_(current_) { current_ = name; }
  ~OpScope() { current_ = previous_; }
  OpScope(const OpScope&) = delete;
  OpScope& operator=(const OpScope&) = delete;

  /// The innermost operation of this thread, or nullptr.
  static const char* current() { return current_; }

 private:
  const char* previous_;
  static inline thread_local const char* current_ = nullptr;
};

}  // namespace tapecache
