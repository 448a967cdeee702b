#pragma once

#include <cstddef>
#include <type_traits>
#include <utility>

#include "tapecache/core/dtype.h"
#include "tapecache/core/error.h"
#include "tapecache/core/random.h"

namespace tapecache {

namespace detail {
/// The base of objects that change the state of their thread for a scope. They must end on the thread on which they
/// began, the last one first, as local variables do. An object made by `new` could end later and restore an outdated
/// value, so `new` is deleted.
struct OfOneScope {
  static void* operator new(std::size_t) = delete;
  static void* operator new[](std::size_t) = delete;
};
}  // namespace detail

/// Restores a value on leaving the scope. All per-thread state that is changed for a scope is changed by this.
template <class T>
class [[nodiscard]] ScopedValue : public detail::OfOneScope {
 public:
  /// Saves the value, which the scope may then change.
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

/// All that a forward on this thread depends on besides its arguments and its parameters. It consists of values: code
/// that runs a forward again (activation checkpointing, the second forward of a cached step) keeps a copy and puts it
/// in force again:
///
///   const ForwardContext first = forward_context();
///   …
///   const ScopedValue again(forward_context(), first.repeated());
///
/// So a member that is added here is repeated without being mentioned anywhere else.
struct ForwardContext {
  RandomState random = {};
  DType autocast = DType::kFloat32;  ///< the type of matrix products' operands: see `Autocast`
  bool anomaly_mode = false;         ///< see `AnomalyMode`
  /// A forward that repeats an earlier one: buffers such as running averages were updated then and must not be updated
  /// again.
  bool recompute = false;
  /// Whether the samples in view are only a part of the batch, so that statistics over them are not those of the batch.
  /// Layers that look at several samples at once check this.
  bool partial_batch = false;

  /// The context for a forward that repeats the one of this context.
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
