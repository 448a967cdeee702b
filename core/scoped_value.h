#pragma once

#include <type_traits>
#include <utility>

#include "tapecache/core/language.h"

namespace tapecache {

/// Gives a value back, on leaving the scope, as it was on entering it. Whatever a thread changes for a scope, it changes by
/// this.
template <class T>
class [[nodiscard]] ScopedValue {
 public:
  /// Leaves the value as it is; the scope may change it.
  explicit ScopedValue(T& value) : value_(value), before_(value) {}
  ScopedValue(T& value, std::type_identity_t<T> within) : value_(value), before_(std::exchange(value, std::move(within))) {}
  ~ScopedValue() { value_ = std::move(before_); }
  ScopedValue(const ScopedValue&) = delete;
  ScopedValue& operator=(const ScopedValue&) = delete;

 private:
  T& value_;
  T before_;
};

}  // namespace tapecache
