#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <tuple>
#include <utility>
#include <vector>

#include "tapecache/autograd/variable.h"
#include "tapecache/core/forward_context.h"
#include "tapecache/core/tensor.h"

#pragma GCC visibility push(hidden)

namespace tapecache {

namespace detail {

/// What ops make of parameters for their products, such as a rounded or a packed copy, for many calls to use. An entry
/// holds as long as none of its parameters has changed; so what is taken from here has the bits that making it anew
/// would give.
class [[gnu::visibility("hidden")]] OperandCache {
 public:
  /// `packed_budget` is the most bytes that it keeps packed.
  explicit OperandCache(std::size_t packed_budget = 0);

  /// The one in force on this thread, null for none. While a step is recorded (`CapturedStep`), one that was made
  /// before is not in force: a replay has to make what it uses, of the parameters as they are then.
  static OperandCache* current();
  /// Puts it in force on this thread, until the end of what this returns.
  ScopedValue<OperandCache*> use();

  /// What was kept for these parameters, in this type; undefined where nothing was, or one has changed since.
  Tensor find(std::span<const Parameter> parameters, DType dtype) const;
  /// `made` must be of the parameters' present values.
  void keep(std::span<const Parameter> parameters, Tensor made);

  /// What was kept of this value, packed as the right factor of a product: as it is, or its transpose. Undefined where
  /// nothing was, or the value has changed since.
  Tensor find_packed(const Tensor& value, bool transposed) const;
  void keep_packed(const Tensor& value, bool transposed, Tensor made);
  bool has_room_for_packed(std::size_t bytes) const { return bytes <= packed_budget_ - packed_bytes_; }

  /// Returns whether there was anything.
  bool clear();

 private:
  /// A tensor as it was.
  struct Value {
    std::weak_ptr<const Storage> storage;
    std::size_t offset;
    Shape shape;
    std::uint64_t version;

    static Value of(const Tensor& tensor);
    bool is(const Tensor& tensor) const;
  };
  struct Source {
    Parameter parameter;
    Value value;
  };
  struct Entry {
    std::vector<Source> sources;
    Tensor made;
    std::uint64_t replays;  // before it was made
  };
  struct Packed {
    Value value;
    Tensor made;
    std::uint64_t replays;
  };
  using Key = std::pair<std::vector<const void*>, DType>;
  using PackedKey = std::tuple<const void*, std::size_t, bool>;  // the storage, the offset in it, whether transposed

  static Key key_of(std::span<const Parameter> parameters, DType dtype);

  bool recorded_;
  std::map<Key, Entry> entries_;
  std::map<PackedKey, Packed> packed_;
  std::size_t packed_budget_, packed_bytes_ = 0;
};

}  // namespace detail

using detail::OperandCache;

}  // namespace tapecache

#pragma GCC visibility pop
