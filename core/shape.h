#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

#include "tapecache/core/language.h"

namespace tapecache {

/// The sizes of a tensor's axes, at most kMaxRank of them. Rank 0 is a scalar with one element.
class Shape {
 public:
  static constexpr int kMaxRank = 6;

  Shape() = default;
  /// Throws ShapeError on a negative size, more than kMaxRank axes, or more than 2^59 elements.
  Shape(std::initializer_list<std::int64_t> sizes);
  explicit Shape(std::span<const std::int64_t> sizes);

  int rank() const { return rank_; }
  /// Product of all sizes.
  std::int64_t numel() const;
  /// Size of an axis; negative axes count from the end. Throws ShapeError where there is no such axis.
  std::int64_t operator[](int axis) const { return sizes_[static_cast<std::size_t>(normalize_axis(axis))]; }
  /// The axis as a number in [0, rank). Throws ShapeError where there is no such axis.
  int normalize_axis(int axis) const;
  /// Product of the sizes of axes [begin, end). Throws ShapeError where there are no such axes.
  std::int64_t product(int begin, int end) const;
  /// This shape with one axis set to another size.
  Shape with(int axis, std::int64_t size) const;
  /// This shape without one axis.
  Shape without(int axis) const;
  /// This shape with a new axis of the given size put before `axis`.
  Shape inserted(int axis, std::int64_t size) const;

  const std::int64_t* begin() const { return sizes_.data(); }
  const std::int64_t* end() const { return sizes_.data() + rank_; }

  bool operator==(const Shape& other) const;

 private:
  std::array<std::int64_t, kMaxRank> sizes_{};
  int rank_ = 0;
};

/// "[2, 3]"; a scalar is "[]".
std::string to_string(const Shape& shape);

/// These sizes, one of which may be -1: then it is what the others leave of the elements of `from`. Throws ShapeError
/// naming `op` where they leave none or, beside an axis of size 0, leave it open, and for a second -1.
Shape inferred_shape(const char* op, std::initializer_list<std::int64_t> sizes, const Shape& from);

/// The shape both operands broadcast to, aligned at the last axis. Throws ShapeError naming `op` where they do not.
Shape broadcast(const char* op, const Shape& a, const Shape& b);

}  // namespace tapecache
