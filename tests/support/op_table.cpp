#include "op_table.h"

#include <algorithm>
#include <iterator>
#include <random>
#include <utility>

namespace tapecache::testing {

namespace {

double uniform_value(std::mt19937_64& engine) { return static_cast<double>(engine() >> 11) * 0x1p-53; }

double rounded(double value) { return static_cast<double>(static_cast<float>(value)); }

Tensor make_input(const Input& input, DType floating_type, std::mt19937_64& engine) {
  const DType dtype = is_floating(input.dtype) ? floating_type : input.dtype;
  std::vector<double> values = input.given;
  if (values.empty()) {
    values.resize(static_cast<std::size_t>(input.shape.numel()));
    for (double& v : values) {
      v = input.low + (input.high - input.low) * uniform_value(engine);
      if (dtype == DType::kBool) v = v < 0.75 ? 1 : 0;
    }
  }
  if (is_floating(dtype)) std::transform(values.begin(), values.end(), values.begin(), rounded);
  return Tensor::from(values, input.shape).to(dtype);
}

}  // namespace

Input floating(const Shape& shape, double low, double high) { return {shape, DType::kFloat64, low, high}; }
Input floating(const Shape& shape, std::vector<double> given) {
  return {shape, DType::kFloat64, 0, 0, std::move(given)};
}
Input indices(const Shape& shape, std::int64_t count, DType dtype) {
  return {shape, dtype, 0, static_cast<double>(count)};
}
Input indices(const Shape& shape, std::vector<double> given, DType dtype) {
  return {shape, dtype, 0, 0, std::move(given)};
}
Input mask(const Shape& shape) { return {shape, DType::kBool, 0, 1}; }
Input mask(const Shape& shape, std::vector<double> given) { return {shape, DType::kBool, 0, 1, std::move(given)}; }

const std::vector<OpRow>& op_rows() {
  static const std::vector<OpRow> all = [] {
    std::vector<OpRow> rows;
    for (auto family : {elementwise_rows, linear_rows, matmul_rows, reduce_rows, row_wise_rows, layout_rows,
                        sequence_rows, contrastive_rows}) {
      std::vector<OpRow> some = family();
      std::move(some.begin(), some.end(), std::back_inserter(rows));
    }
    return rows;
  }();
  return all;
}

std::vector<Tensor> make_inputs(std::span<const Input> inputs, DType floating_type) {
  std::mt19937_64 engine(12345);
  std::vector<Tensor> tensors;
  for (const Input& input : inputs) tensors.push_back(make_input(input, floating_type, engine));
  return tensors;
}

Tensor random_tensor(const Shape& shape, DType dtype, std::uint64_t seed) {
  std::mt19937_64 engine(seed);
  return make_input(floating(shape), dtype, engine);
}

NaiveArray to_naive(const Tensor& tensor) {
  NaiveArray array;
  array.shape = tensor.shape();
  array.values = tensor.to(DType::kFloat64).to_vector<double>();
  return array;
}

}  // namespace tapecache::testing
