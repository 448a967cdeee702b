#include "tapecache/core/tensor.h"

#include <algorithm>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "tapecache/core/error.h"

namespace tapecache {

namespace {

// Times the 8 bytes of the largest type this still fits 63 bits, so sizes in bytes need no check of their own.
constexpr std::int64_t kMaxElements = std::int64_t{1} << 59;

}  // namespace

Shape::Shape(std::initializer_list<std::int64_t> sizes) : Shape(std::span(sizes.begin(), sizes.size())) {}

Shape::Shape(std::span<const std::int64_t> sizes) : rank_(static_cast<int>(sizes.size())) {
  if (sizes.size() > kMaxRank) {
    throw ShapeError(
        fmt::format("shape: {} axes in [{}], at most {} expected", sizes.size(), fmt::join(sizes, ", "), kMaxRank));
  }
  std::int64_t total = 1;
  for (std::int64_t size : sizes) {
    if (size < 0) throw ShapeError(fmt::format("shape: negative size in [{}]", fmt::join(sizes, ", ")));
    if (size > 0 && total > kMaxElements / size) {
      throw ShapeError(fmt::format("shape: too many elements in [{}]", fmt::join(sizes, ", ")));
    }
    total *= std::max<std::int64_t>(size, 1);
  }
  std::copy(sizes.begin(), sizes.end(), sizes_.begin());
}

std::int64_t Shape::numel() const { return product(0, rank_); }

int Shape::normalize_axis(int axis) const {
  const int positive = axis < 0 ? axis + rank_ : axis;
  if (positive < 0 || positive >= rank_) {
    throw ShapeError(fmt::format("shape: axis {} of {}, which has {} axes", axis, to_string(*this), rank_));
  }
  return positive;
}

std::int64_t Shape::product(int begin, int end) const {
  if (begin < end && (begin < 0 || end > rank_)) {
    throw ShapeError(fmt::format("shape: axes [{}, {}) of {}, which has {} axes", begin, end, to_string(*this), rank_));
  }
  std::int64_t result = 1;
  for (int i = begin; i < end; ++i) result *= sizes_[static_cast<std::size_t>(i)];
  return result;
}

Shape Shape::with(int axis, std::int64_t size) const {
  Shape result = *this;
  result.sizes_[static_cast<std::size_t>(normalize_axis(axis))] = size;
  return Shape(std::span(result.begin(), result.end()));
}

Shape Shape::without(int axis) const {
  const int dropped = normalize_axis(axis);
  Shape result;
  for (int i = 0; i < rank_; ++i) {
    if (i != dropped) result.sizes_[static_cast<std::size_t>(result.rank_++)] = (*this)[i];
  }
  return result;
}

Shape Shape::inserted(int axis, std::int64_t size) const {
  std::array<std::int64_t, kMaxRank + 1> sizes{};
  const int at = axis < 0 ? axis + rank_ + 1 : axis;
  if (at < 0 || at > rank_) {
    throw ShapeError(fmt::format("shape: no place {} for a new axis in {}", axis, to_string(*this)));
  }
  std::copy(begin(), begin() + at, sizes.begin());
  sizes[static_cast<std::size_t>(at)] = size;
  std::copy(begin() + at, end(), sizes.begin() + at + 1);
  return Shape(std::span(sizes.data(), static_cast<std::size_t>(rank_ + 1)));
}

bool Shape::operator==(const Shape& other) const { return std::equal(begin(), end(), other.begin(), other.end()); }

std::string to_string(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape.begin(), shape.end(), ", ")); }

Shape Shape::inferred(const char* op, std::initializer_list<std::int64_t> sizes, const Shape& from) {
  const auto open = std::find(sizes.begin(), sizes.end(), -1);
  if (open == sizes.end()) return Shape(sizes);
  if (std::count(sizes.begin(), sizes.end(), -1) > 1) {
    throw ShapeError(fmt::format("{}: more than one -1 in [{}], expected one", op, fmt::join(sizes, ", ")));
  }
  std::vector<std::int64_t> filled(sizes);
  std::int64_t& size = filled[static_cast<std::size_t>(open - sizes.begin())];
  size = 1;
  const std::int64_t others = Shape(filled).numel();
  if (others == 0) {
    throw ShapeError(fmt::format("{}: -1 in [{}] stands beside an axis of size 0, expected the size for {}", op,
                                 fmt::join(sizes, ", "), to_string(from)));
  }
  if (from.numel() % others != 0) {
    throw ShapeError(fmt::format("{}: {} has {} elements, expected a multiple of {} for [{}]", op, to_string(from),
                                 from.numel(), others, fmt::join(sizes, ", ")));
  }
  size = from.numel() / others;
  return Shape(filled);
}

Shape Shape::broadcast(const char* op, const Shape& a, const Shape& b) {
  const int rank = std::max(a.rank(), b.rank());
  std::array<std::int64_t, Shape::kMaxRank> sizes{};
  for (int i = 1; i <= rank; ++i) {
    const std::int64_t in_a = i <= a.rank() ? a[-i] : 1;
    const std::int64_t in_b = i <= b.rank() ? b[-i] : 1;
    if (in_a != in_b && in_a != 1 && in_b != 1) {
      throw ShapeError(fmt::format("{}: shapes {} and {} do not broadcast: axis {} from the end is {} and {}", op,
                                   to_string(a), to_string(b), i, in_a, in_b));
    }
    sizes[static_cast<std::size_t>(rank - i)] = in_a == 1 ? in_b : in_a;
  }
  return Shape(std::span<const std::int64_t>(sizes.data(), static_cast<std::size_t>(rank)));
}

}  // namespace tapecache
