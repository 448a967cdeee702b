#include <vector>

#include "op_error_cases.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/linear.h"

using namespace tapecache;
using namespace tapecache::testing;

namespace {

std::vector<ErrorCase> product_cases() {
  return {
      error<ShapeError>("matmul_inner",
                        [](Given& g) {
                          ops::matmul(g.f32({2, 3}), g.f32({4, 5}));
                        },
                        {"matmul:", "[2, 3]", "[4, 5]", "3", "4"}),
      error<ShapeError>("matmul_inner_transposed",
                        [](Given& g) {
                          ops::matmul(g.f32({2, 3}), g.f32({3, 5}), {false, true});
                        },
                        {"matmul:", "[2, 3]", "[3, 5]", "5"}),
      error<ShapeError>("matmul_batches",
                        [](Given& g) {
                          ops::matmul(g.f32({2, 2, 3}), g.f32({3, 3, 5}));
                        },
                        {"matmul:", "[2, 2, 3]", "[3, 3, 5]"}),
      error<ShapeError>("matmul_batch_rank",
                        [](Given& g) {
                          ops::matmul(g.f32({2, 3, 4}), g.f32({5, 2, 4, 3}));
                        },
                        {"matmul:", "[2, 3, 4]", "[5, 2, 4, 3]"}),
      error<ShapeError>("matmul_vector",
                        [](Given& g) {
                          ops::matmul(g.f32({3}), g.f32({3, 2}));
                        },
                        {"matmul:", "[3]", "2"}),
      error<DTypeError>("matmul_mixed_types",
                        [](Given& g) {
                          ops::matmul(g.f32({2, 3}), g.f64({3, 2}));
                        },
                        {"matmul:", "float64", "float32"}),
      error<ShapeError>("linear_residual",
                        [](Given& g) {
                          ops::linear(g.f32({2, 3}), g.f32({5, 3}), g.f32({5}), g.f32({2, 3}));
                        },
                        {"linear:", "residual", "[2, 3]", "[2, 5]"}),
      error<DTypeError>("linear_x_type",
                        [](Given& g) {
                          ops::linear(g.f64({2, 3}), g.f32({5, 3}));
                        },
                        {"linear: x is float64 and weight is float32, expected one type"}),
      error<DTypeError>("linear_residual_type",
                        [](Given& g) {
                          ops::linear(g.f32({2, 3}), g.f32({5, 3}), g.f32({5}), g.f64({2, 5}));
                        },
                        {"linear:", "residual", "float64", "float32"}),
      error<ShapeError>("activated_linear_residual",
                        [](Given& g) {
                          ops::activated_linear(g.f32({2, 3}), ops::Activation::kRelu, g.f32({5, 3}), {}, g.f32({5}));
                        },
                        {"activated_linear:", "residual", "[5]", "[2, 5]"}),
      error<ValueError>("multi_linear_no_weight",
                        [](Given& g) {
                          ops::multi_linear(g.f32({2, 3}), {});
                        },
                        {"multi_linear:", "0 weights", "1 to 8"}),
      error<ValueError>("multi_linear_biases",
                        [](Given& g) {
                          const Variable w[] = {g.f32({5, 3}), g.f32({4, 3})}, b[] = {g.f32({5})};
                          ops::multi_linear(g.f32({2, 3}), w, b);
                        },
                        {"multi_linear:", "2 weights", "1 biases"}),
      error<ShapeError>("multi_linear_weight",
                        [](Given& g) {
                          const Variable w[] = {g.f32({5, 3}), g.f32({4, 2})};
                          ops::multi_linear(g.f32({2, 3}), w);
                        },
                        {"multi_linear:", "weight", "[4, 2]", "3"}),
      error<ShapeError>("normalized_linear_norm",
                        [](Given& g) {
                          const Variable w[] = {g.f32({5, 3})};
                          ops::normalized_linear(g.f32({2, 3}), {g.f32({2}), g.f32({3})}, w);
                        },
                        {"normalized_linear:", "weight", "[2]", "[3]"}),
      error<ValueError>("normalized_linear_epsilon",
                        [](Given& g) {
                          const Variable w[] = {g.f32({5, 3})};
                          ops::normalized_linear(g.f32({2, 3}), {g.f32({3}), g.f32({3}), -1}, w);
                        },
                        {"normalized_linear:", "epsilon", "-1"}),
      error<ShapeError>("linear_weight",
                        [](Given& g) {
                          ops::linear(g.f32({2, 3}), g.f32({5, 4}));
                        },
                        {"linear:", "weight", "[5, 4]", "3"}),
      error<ShapeError>("linear_weight_rank",
                        [](Given& g) {
                          ops::linear(g.f32({2, 3}), g.f32({3}));
                        },
                        {"linear:", "weight", "[3]"}),
      error<ShapeError>("linear_bias",
                        [](Given& g) {
                          ops::linear(g.f32({2, 3}), g.f32({5, 3}), g.f32({3}));
                        },
                        {"linear:", "bias", "[3]", "[5]"}),
      error<DTypeError>("linear_bias_type",
                        [](Given& g) {
                          ops::linear(g.f32({2, 3}), g.f32({5, 3}), g.f64({5}));
                        },
                        {"linear:", "bias", "float64", "float32"}),
      error<DTypeError>(
          "linear_of_16_bits_weight",
          [](Given& g) {
            ops::linear(g.f32({2, 3}).value().to(DType::kFloat16), g.f32({5, 3}).value().to(DType::kFloat16));
          },
          {"linear:", "weight", "float16", "float32"}),
      error<DTypeError>("linear_of_16_bits_bias",
                        [](Given& g) {
                          ops::linear(g.f32({2, 3}).value().to(DType::kBFloat16), g.f32({5, 3}), g.f64({5}));
                        },
                        {"linear: x is bfloat16 and bias is float64, expected float32 beside 16 bits"}),
      error<DTypeError>("multi_linear_of_16_bits_weight",
                        [](Given& g) {
                          const Variable w[] = {g.f64({5, 3})};
                          ops::multi_linear(g.f32({2, 3}).value().to(DType::kBFloat16), w);
                        },
                        {"multi_linear:", "weight", "float64", "float32"}),
      error<DTypeError>(
          "normalized_linear_of_16_bits",
          [](Given& g) {
            const Variable w[] = {g.f32({5, 3})};
            ops::normalized_linear(g.f32({2, 3}).value().to(DType::kBFloat16), {g.f32({3}), g.f32({3})}, w);
          },
          {"normalized_linear:", "x", "bfloat16"}),
      error<ShapeError>("patch_embedding_division",
                        [](Given& g) {
                          ops::patch_embedding(g.f32({1, 3, 4, 5}), g.f32({2, 3, 2, 2}));
                        },
                        {"patch_embedding:", "[1, 3, 4, 5]", "2"}),
      error<ShapeError>("patch_embedding_channels",
                        [](Given& g) {
                          ops::patch_embedding(g.f32({1, 3, 4, 4}), g.f32({2, 1, 2, 2}));
                        },
                        {"patch_embedding:", "[1, 3, 4, 4]", "[2, 1, 2, 2]"}),
      error<ShapeError>("patch_embedding_oblong",
                        [](Given& g) {
                          ops::patch_embedding(g.f32({1, 3, 4, 4}), g.f32({2, 3, 2, 1}));
                        },
                        {"patch_embedding:", "[2, 3, 2, 1]"}),
      error<ShapeError>("patch_embedding_rank",
                        [](Given& g) {
                          ops::patch_embedding(g.f32({3, 4, 4}), g.f32({2, 3, 2, 2}));
                        },
                        {"patch_embedding:", "[3, 4, 4]"}),
      error<ShapeError>("patch_embedding_bias",
                        [](Given& g) {
                          ops::patch_embedding(g.f32({1, 3, 4, 4}), g.f32({2, 3, 2, 2}), g.f32({3}));
                        },
                        {"patch_embedding:", "bias", "[3]", "[2]"}),
      error<DTypeError>("patch_embedding_bias_type",
                        [](Given& g) {
                          ops::patch_embedding(g.f32({1, 3, 4, 4}), g.f32({2, 3, 2, 2}), g.f64({2}));
                        },
                        {"patch_embedding:", "bias", "float64", "float32"}),
  };
}

const ErrorTests tests_of_products({product_cases()}, __FILE__);

}  // namespace
