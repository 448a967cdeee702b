#pragma once

#include <cstddef>
#include <type_traits>
#include <utility>

#include "tapecache/core/dtype.h"
#include "tapecache/core/error.h"
#include "tapecache/core/random.h"

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

/// What a forward on this thread depends on beside its arguments and its parameters. All of it is values, and who runs
/// a forward again (activation checkpointing, the second forward of a cached step) keeps a copy of the whole and puts
/// it in force again:
///
///   const ForwardContext first = forward_context();
///   …
///   const ScopedValue again(forward_context(), first.repeated());
///
/// So what is added here is repeated without being mentioned anywhere else.
struct ForwardContext {
  RandomState random = {};
  DType autocast = DType::kFloat32;  ///< of the operands of matrix products: see `Autocast`
  bool anomaly_mode = false;         ///< see `AnomalyMode`
  /// A forward that repeats an earlier one: buffers such as running averages were updated then and must not be updated
  /// again.
  bool recompute = false;
  /// The samples in view are a part of the batch: statistics over them are not those of the batch. What looks at
  /// several samples at once asks here.
  bool partial_batch = false;

  /// For a forward that repeats the one this is of.
  ForwardContext repeated() const {
    ForwardContext context = *this;
    context.recompute = true;
    return context;
  }
  bool operator==(const ForwardContext&) const = default;
};

/// The context of this thread.
ForwardContext& forward_context();

}  // namespace tapecache
