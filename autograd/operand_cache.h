#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "tapecache/autograd/parameter.h"
#include "tapecache/core/tensor.h"

namespace tapecache {

/// What ops make of parameters for their products, such as a rounded copy, for many calls to use. An entry holds as long as
/// none of its parameters has changed; so what is taken from here has the bits that making it anew would give.
class OperandCache {
 public:
  OperandCache();

  /// The one in force on this thread, null for none. While a step is recorded (`CapturedStep`), one that was made before is not
  /// in force: a replay has to make what it uses, of the parameters as they are then.
  static OperandCache* current();

  /// What was kept for these parameters, in this type; undefined where nothing was, or one has changed since.
  Tensor find(std::span<const Parameter> parameters, DType dtype) const;
  /// `made` must be of the parameters' present values.
  void keep(std::span<const Parameter> parameters, Tensor made);
  /// Returns whether there was anything.
  bool clear();

 private:
  friend class OperandScope;

  /// A parameter's value as it was.
  struct Source {
    Parameter parameter;
    std::weak_ptr<const Storage> storage;
    std::size_t offset;
    Shape shape;
    std::uint64_t version;

    bool is_unchanged() const;
  };
  struct Entry {
    std::vector<Source> sources;
    Tensor made;
    std::uint64_t replays;  // before it was made
  };
  using Key = std::pair<std::vector<const void*>, DType>;

  static Key key_of(std::span<const Parameter> parameters, DType dtype);

  bool recorded_;
  std::map<Key, Entry> entries_;
};

/// Puts a cache in force on this thread, for a scope.
class OperandScope {
 public:
  explicit OperandScope(OperandCache& cache);
  ~OperandScope();
  OperandScope(const OperandScope&) = delete;
  OperandScope& operator=(const OperandScope&) = delete;

 private:
  OperandCache* previous_;
};

}  // namespace tapecache
