#include "naive.h"

#include <algorithm>
#include <cmath>

namespace tapecache::testing {

void for_each_index(const Shape& shape, const std::function<void(const Index&)>& f) {
  if (shape.numel() == 0) return;
  Index index(static_cast<std::size_t>(shape.rank()), 0);
  while (true) {
    f(index);
    int axis = shape.rank() - 1;
    while (axis >= 0 && ++index[static_cast<std::size_t>(axis)] == shape[axis]) {
      index[static_cast<std::size_t>(axis--)] = 0;
    }
    if (axis < 0) return;
  }
}

std::int64_t flat(const Shape& shape, const Index& index) {
  std::int64_t position = 0;
  for (int axis = 0; axis < shape.rank(); ++axis) {
    position = position * shape[axis] + index[static_cast<std::size_t>(axis)];
  }
  return position;
}

double broadcast_at(const NaiveArray& x, const Index& index) {
  const std::size_t rank = static_cast<std::size_t>(x.shape.rank());
  std::int64_t position = 0;
  for (std::size_t axis = 0; axis < rank; ++axis) {
    const std::int64_t size = x.shape[static_cast<int>(axis)];
    position = position * size + (size == 1 ? 0 : index[index.size() - rank + axis]);
  }
  return x[position];
}

NaiveArray naive_unary(const NaiveArray& x, const std::function<double(double)>& f) {
  NaiveArray y = x;
  std::transform(x.values.begin(), x.values.end(), y.values.begin(), f);
  return y;
}

NaiveArray naive_binary(const NaiveArray& a, const NaiveArray& b, const std::function<double(double, double)>& f) {
  std::vector<std::int64_t> sizes(static_cast<std::size_t>(std::max(a.shape.rank(), b.shape.rank())), 1);
  for (const NaiveArray* operand : {&a, &b}) {
    for (int i = 1; i <= operand->shape.rank(); ++i) {
      std::int64_t& size = sizes[sizes.size() - static_cast<std::size_t>(i)];
      if (size == 1) size = operand->shape[-i];
    }
  }
  NaiveArray y{Shape(std::span<const std::int64_t>(sizes))};
  std::int64_t i = 0;
  for_each_index(y.shape, [&](const Index& index) { y[i++] = f(broadcast_at(a, index), broadcast_at(b, index)); });
  return y;
}

NaiveArray naive_reduce(const NaiveArray& x, int axis, const std::function<double(const std::vector<double>&)>& f) {
  NaiveArray y(x.shape.without(axis));
  const std::int64_t length = x.shape[axis], inner = x.shape.product(axis + 1, x.shape.rank());
  std::vector<double> line(static_cast<std::size_t>(length));
  for (std::int64_t i = 0; i < y.shape.numel(); ++i) {
    for (std::int64_t k = 0; k < length; ++k) {
      line[static_cast<std::size_t>(k)] = x[(i / inner * length + k) * inner + i % inner];
    }
    y[i] = f(line);
  }
  return y;
}

NaiveArray naive_rows(const NaiveArray& x, const std::function<std::vector<double>(const std::vector<double>&)>& f) {
  NaiveArray y = x;
  const std::int64_t width = x.shape[-1];
  for (std::int64_t begin = 0; begin < x.shape.numel(); begin += width) {
    const std::vector<double> row = f({x.values.begin() + begin, x.values.begin() + begin + width});
    std::copy(row.begin(), row.end(), y.values.begin() + begin);
  }
  return y;
}

double naive_sum(const std::vector<double>& x) {
  long double total = 0;
  for (const double v : x) total += v;
  return static_cast<double>(total);
}

double naive_logsumexp(const std::vector<double>& x) {
  const double largest = *std::max_element(x.begin(), x.end());
  long double total = 0;
  for (const double v : x) total += std::exp(v - largest);
  return largest + std::log(static_cast<double>(total));
}

NaiveArray naive_layer_norm(const NaiveArray& x, const NaiveArray& gamma, const NaiveArray& beta, double epsilon) {
  return naive_rows(x, [&](const std::vector<double>& row) {
    const double width = static_cast<double>(row.size());
    const double mean = naive_sum(row) / width;
    double variance = 0;
    for (const double v : row) variance += (v - mean) * (v - mean) / width;
    std::vector<double> y;
    for (std::size_t i = 0; i < row.size(); ++i) {
      y.push_back((row[i] - mean) / std::sqrt(variance + epsilon) * gamma.values[i] + beta.values[i]);
    }
    return y;
  });
}

}  // namespace tapecache::testing
