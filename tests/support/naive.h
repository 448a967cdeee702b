#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "tapecache/core/tensor.h"

namespace tapecache::testing {

/// Plain values in row-major order: what references are written over. Masks hold 0 and 1, indices whole numbers.
struct NaiveArray {
  Shape shape;
  std::vector<double> values;

  NaiveArray() = default;
  explicit NaiveArray(const Shape& s, double value = 0)
      : shape(s), values(static_cast<std::size_t>(s.numel()), value) {}

  double& operator[](std::int64_t i) { return values[static_cast<std::size_t>(i)]; }
  double operator[](std::int64_t i) const { return values[static_cast<std::size_t>(i)]; }
  std::int64_t size(int axis) const { return shape[axis]; }
};

using Index = std::vector<std::int64_t>;

/// Calls `f` with each index of the shape in row-major order.
void for_each_index(const Shape& shape, const std::function<void(const Index&)>& f);
/// Row-major position of an index.
std::int64_t flat(const Shape& shape, const Index& index);
/// The element that `index` reads where the array is broadcast to the index's shape.
double broadcast_at(const NaiveArray& x, const Index& index);

NaiveArray naive_unary(const NaiveArray& x, const std::function<double(double)>& f);
NaiveArray naive_binary(const NaiveArray& a, const NaiveArray& b, const std::function<double(double, double)>& f);
/// Reduces one axis (not negative) by a function of the values along it.
NaiveArray naive_reduce(const NaiveArray& x, int axis, const std::function<double(const std::vector<double>&)>& f);
/// Replaces each row of the last axis by a function of it.
NaiveArray naive_rows(const NaiveArray& x, const std::function<std::vector<double>(const std::vector<double>&)>& f);

NaiveArray naive_layer_norm(const NaiveArray& x, const NaiveArray& gamma, const NaiveArray& beta, double epsilon);

double naive_sum(const std::vector<double>& x);
double naive_logsumexp(const std::vector<double>& x);

}  // namespace tapecache::testing
