#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "naive.h"
#include "tapecache/autograd/variable.h"

namespace tapecache::testing {

/// How one input of an op is made.
struct Input {
  Shape shape;
  DType dtype = DType::kFloat64;   ///< kFloat64 stands for the floating type under test
  double low = -1, high = 1;       ///< range of random values; indices are drawn from [low, high)
  std::vector<double> given = {};  ///< the values themselves, where random ones would not do
};

Input floating(const Shape& shape, double low = -1, double high = 1);
Input floating(const Shape& shape, std::vector<double> given);
Input indices(const Shape& shape, std::int64_t count, DType dtype = DType::kInt64);
Input indices(const Shape& shape, std::vector<double> given, DType dtype = DType::kInt64);
/// A mask with about three of four entries true.
Input mask(const Shape& shape);
Input mask(const Shape& shape, std::vector<double> given);

using Op = std::function<Variable(std::span<const Variable>)>;
using Reference = std::function<NaiveArray(std::span<const NaiveArray>)>;

/// One op, or one of its cases: what drives every test of it, and its benchmark.
struct OpRow {
  std::string name;
  std::vector<Input> inputs;
  Op op;
  Reference reference;
  std::vector<Input> large = {};    ///< larger inputs, for the benchmark and for work in several blocks; may be empty
  double flops = 0;                 ///< floating-point operations of the forward over `large`
  bool reads_all = true;            ///< false where the forward picks some of its elements and computes nothing
  bool differentiable = true;       ///< whether the gradient exists at these inputs
  double float32_tolerance = 1e-5;  ///< where wider than this default, the row says why
  double float32_gradient_tolerance = 1e-4;  ///< the same
};

const std::vector<OpRow>& op_rows();

/// The inputs as tensors, the floating ones in `floating_type`. Their values are exact in float32 and the same at
/// every call.
std::vector<Tensor> make_inputs(std::span<const Input> inputs, DType floating_type);
/// Random values in [-1, 1], exact in float32.
Tensor random_tensor(const Shape& shape, DType dtype, std::uint64_t seed);
NaiveArray to_naive(const Tensor& tensor);

std::vector<OpRow> elementwise_rows();
std::vector<OpRow> matmul_rows();
std::vector<OpRow> linear_rows();
std::vector<OpRow> reduce_rows();
std::vector<OpRow> row_wise_rows();
std::vector<OpRow> layout_rows();
std::vector<OpRow> sequence_rows();
std::vector<OpRow> contrastive_rows();

}  // namespace tapecache::testing
