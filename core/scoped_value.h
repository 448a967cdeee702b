#pragma once

#include <cstddef>
#include <type_traits>
#include <utility>

#include "tapecache/core/language.h"

namespace tapecache {

namespace detail {
/// A base of what changes something of its thread for a scope. Such scopes end on the thread that they began on, the
/// last one first, as variables of functions do; one that `new` made might end later, and would then give back what no
/// longer is.
struct OfOneScope {
  static void* operator new(std::size_t) = delete;
  static void* operator new[](std::size_t) = delete;
};
}  // namespace detail

/// Gives a value back, on leaving the scope, as it was on entering it. Whatever a thread changes for a scope, it
/// changes by this.
template <class T>
class [[nodiscard]] ScopedValue : public detail::OfOneScope {
 public:
  /// Leaves the value as it is; the scope may change it.
  explicit ScopedValue(T& value) : value_(value), before_(value) {}
  ScopedValue(T& value, std::type_identity_t<T> within)
      : value_(value), before_(std::exchange(value, std::move(within))) {}
  ~ScopedValue() { value_ = std::move(before_); }
  ScopedValue(const ScopedValue&) = delete;
  ScopedValue& operator=(const ScopedValue&) = delete;

 private:
  T& value_;
  T before_;
};

}  // namespace tapecache
