#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "compare.h"
#include "op_error_cases.h"
#include "tapecache/core/forward_context.h"
#include "tapecache/core/random.h"
#include "tapecache/ops/attention.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/linear.h"
#include "tapecache/ops/normalize.h"
#include "tapecache/ops/reduce.h"
#include "tapecache/ops/tokens.h"

using namespace tapecache;
using namespace tapecache::testing;

namespace {

std::vector<ErrorCase> binary_cases() {
  std::vector<ErrorCase> cases;
  const std::vector<std::pair<std::string, Variable (*)(const Variable&, const Variable&)>> all{
      {"add", ops::add}, {"subtract", ops::subtract}, {"multiply", ops::multiply}, {"divide", ops::divide}};
  for (const auto& [op, f] : all) {
    cases.push_back(error<ShapeError>(op + "_shapes",
                                      [f = f](Given& g) {
                                        f(g.f32({2, 3}), g.f32({2, 4}));
                                      },
                                      {op + ":", "[2, 3]", "[2, 4]"}));
    cases.push_back(error<DTypeError>(op + "_mixed_types", [f = f](Given& g) { f(g.f32({2}), g.f64({2})); },
                                      {op + ": a is float32 and b is float64, expected one type"}));
  }
  return cases;
}

std::vector<ErrorCase> value_cases() {
  return {
      error<ValueError>("clamp_range", [](Given& g) { ops::clamp(g.f32({2}), 2, 1); }, {"clamp:", "2", "1"}),
      error<ValueError>("clamp_nan", [](Given& g) { ops::clamp(g.f32({2}), kNaN, 1); }, {"clamp:", "nan"}),
      error<ValueError>("dropout_one", [](Given& g) { ops::dropout(g.f32({2}), 1); }, {"dropout:", "1"}),
      error<ValueError>("dropout_negative", [](Given& g) { ops::dropout(g.f32({2}), -0.5); }, {"dropout:", "-0.5"}),
      error<ValueError>("dropout_nan", [](Given& g) { ops::dropout(g.f32({2}), kNaN); }, {"dropout:", "nan"}),
      error<ShapeError>("dropout_scalar", [](Given& g) { ops::dropout(g.f32({}), 0.5); }, {"dropout:", "[]"}),
      error<ShapeError>("dropout_rows_not_of_samples",
                        [](Given& g) {
                          const ScopedValue random(random_state());
                          random_state().samples = 2;
                          ops::dropout(g.f32({3, 2}), 0.5);
                        },
                        {"dropout:", "3", "2"}),
      error<ValueError>("layer_norm_epsilon",
                        [](Given& g) {
                          ops::layer_norm(g.f32({2, 3}), g.f32({3}), g.f32({3}), 0);
                        },
                        {"layer_norm:", "epsilon", "0"}),
      error<ValueError>("l2_normalize_epsilon",
                        [](Given& g) {
                          ops::l2_normalize(g.f32({2, 3}), -1);
                        },
                        {"l2_normalize:", "epsilon", "-1"}),
      error<ValueError>("attention_no_heads",
                        [](Given& g) {
                          ops::attention(g.f32({1, 2, 6}), 0);
                        },
                        {"attention:", "0"}),
      error<ValueError>("attention_negative_heads",
                        [](Given& g) {
                          ops::attention(g.f32({1, 2, 6}), -1);
                        },
                        {"attention:", "-1"}),
      error<ValueError>("attention_kv_heads",
                        [](Given& g) {
                          ops::attention(g.f32({1, 2, 14}), 3, {.kv_heads = 2});
                        },
                        {"attention:", "kv_heads is 2", "3"}),
      error<ValueError>("attention_window",
                        [](Given& g) {
                          ops::attention(g.f32({1, 2, 6}), 1, {.window = -1});
                        },
                        {"attention:", "window is -1"}),
      error<ValueError>("attention_window_beside_bias",
                        [](Given& g) {
                          ops::attention(g.f32({1, 2, 6}), 1, {.bias = g.f32({1, 2, 2}), .window = 1});
                        },
                        {"attention:", "a window beside a bias"}),
      error<ValueError>("attention_kv_heads_beside_bias",
                        [](Given& g) {
                          ops::attention(g.f32({1, 2, 8}), 2, {.bias = g.f32({2, 2, 2}), .kv_heads = 1});
                        },
                        {"attention:", "kv_heads is 1 beside a bias"}),
      error<ShapeError>("attention_grouped_width",
                        [](Given& g) {
                          ops::attention(g.f32({1, 2, 6}), 2, {.kv_heads = 1});
                        },
                        {"attention:", "[1, 2, 6]", "2 heads and 2 · 1"}),
      error<ValueError>("rope_no_heads",
                        [](Given& g) {
                          ops::rope(g.f32({1, 2, 4}), 0, Tensor::zeros({2, 4}));
                        },
                        {"rope:", "0 heads"}),
      error<ShapeError>("rope_too_many_heads",
                        [](Given& g) {
                          ops::rope(g.f32({1, 2, 4}), 2, Tensor::zeros({2, 4}));
                        },
                        {"rope:", "[1, 2, 4]", "at least 2 heads"}),
      error<ShapeError>("rope_short_table",
                        [](Given& g) {
                          ops::rope(g.f32({1, 3, 4}), 1, Tensor::zeros({2, 4}));
                        },
                        {"rope:", "[2, 4]", "at least 3 tokens"}),
      error<ShapeError>("rope_odd_width",
                        [](Given& g) {
                          ops::rope(g.f32({1, 2, 3}), 1, Tensor::zeros({2, 3}));
                        },
                        {"rope:", "[2, 3]", "even"}),
      error<DTypeError>("rope_table_type",
                        [](Given& g) {
                          ops::rope(g.f32({1, 2, 4}), 1, Tensor::zeros({2, 4}, DType::kFloat64));
                        },
                        {"rope:", "float64", "float32"}),
      error<ValueError>("rope_no_table",
                        [](Given& g) {
                          ops::rope(g.f32({1, 2, 4}), 1, {});
                        },
                        {"rope:", "undefined"}),
      error<ValueError>("rope_table_of_nothing", [](Given&) { ops::rope_table({}, 3, DType::kFloat32); },
                        {"rope_table:", "0 frequencies"}),
      error<ShapeError>("gated_odd_axis",
                        [](Given& g) {
                          ops::gated(ops::Activation::kSilu, g.f32({2, 3}));
                        },
                        {"gated:", "[2, 3]", "even"}),
      error<Error>("attention_too_many_heads",
                   [](Given& g) {
                     ops::attention(g.f32({1, 2, 6}), std::numeric_limits<std::int64_t>::max());
                   },
                   {"attention:"}),
  };
}

std::vector<ErrorCase> axis_cases() {
  std::vector<ErrorCase> cases;
  const std::vector<std::pair<std::string, Variable (*)(const Variable&, int)>> reductions{
      {"sum", ops::sum}, {"mean", ops::mean}, {"max", ops::max}, {"logsumexp", ops::logsumexp}};
  for (const auto& [op, f] : reductions) {
    for (const int axis : {2, -3, std::numeric_limits<int>::max(), std::numeric_limits<int>::min()}) {
      cases.push_back(error<ShapeError>(op + "_axis_" + std::to_string(axis),
                                        [f = f, axis](Given& g) {
                                          f(g.f32({2, 3}), axis);
                                        },
                                        {op + ":", "axis", std::to_string(axis), "[2, 3]"}));
    }
    cases.push_back(error<ShapeError>(op + "_scalar", [f = f](Given& g) { f(g.f32({}), 0); }, {op + ":", "[]"}));
    if (op == "sum") continue;
    cases.push_back(error<ShapeError>(op + "_empty_axis",
                                      [f = f](Given& g) {
                                        f(g.f32({2, 0, 3}), 1);
                                      },
                                      {op + ":", "axis 1", "[2, 0, 3]", "empty"}));
  }
  cases.push_back(error<ShapeError>("mean_of_nothing", [](Given& g) { ops::mean(g.f32({0, 3})); }, {"mean:", "empty"}));
  const std::vector<std::pair<std::string, Variable (*)(const Variable&)>> over_rows{{"softmax", ops::softmax},
                                                                                     {"log_softmax", ops::log_softmax}};
  for (const auto& [op, f] : over_rows) {
    cases.push_back(error<ShapeError>(op + "_scalar", [f = f](Given& g) { f(g.f32({})); }, {op + ":", "[]"}));
    cases.push_back(error<ShapeError>(op + "_empty",
                                      [f = f](Given& g) {
                                        f(g.f32({3, 0}));
                                      },
                                      {op + ":", "[3, 0]", "empty"}));
  }
  return cases;
}

std::vector<ErrorCase> mask_cases() {
  return {
      error<DTypeError>("masked_softmax_mask_type",
                        [](Given& g) {
                          ops::masked_softmax(g.f32({2, 3}), whole({2, 3}, 1, DType::kUInt8));
                        },
                        {"masked_softmax:", "mask", "uint8", "bool"}),
      error<ShapeError>("masked_softmax_mask_shape",
                        [](Given& g) {
                          ops::masked_softmax(g.f32({2, 3}), all_true({2}));
                        },
                        {"masked_softmax:", "[2]", "[2, 3]"}),
      error<ShapeError>("masked_softmax_mask_larger",
                        [](Given& g) {
                          ops::masked_softmax(g.f32({1, 3}), all_true({2, 3}));
                        },
                        {"masked_softmax:", "[2, 3]", "[1, 3]"}),
      error<ShapeError>("masked_softmax_mask_rank",
                        [](Given& g) {
                          ops::masked_softmax(g.f32({3}), all_true({1, 3}));
                        },
                        {"masked_softmax:", "[1, 3]", "[3]"}),
      error<Error>("masked_softmax_no_mask",
                   [](Given& g) {
                     ops::masked_softmax(g.f32({2, 3}), {});
                   },
                   {"masked_softmax:", "mask", "undefined"}),
      error<DTypeError>("attention_mask_type",
                        [](Given& g) {
                          ops::attention(g.f32({1, 2, 6}), 1, {false, whole({1, 2}, 1, DType::kInt32)});
                        },
                        {"attention:", "int32", "bool"}),
      error<ShapeError>("attention_mask_shape",
                        [](Given& g) {
                          ops::attention(g.f32({1, 2, 6}), 1, {false, all_true({2})});
                        },
                        {"attention:", "[2]", "[1, 2]"}),
      error<ShapeError>("attention_width",
                        [](Given& g) {
                          ops::attention(g.f32({1, 2, 6}), 4);
                        },
                        {"attention:", "[1, 2, 6]", "4"}),
      error<ShapeError>("attention_rank",
                        [](Given& g) {
                          ops::attention(g.f32({2, 6}), 1);
                        },
                        {"attention:", "[2, 6]"}),
      error<DTypeError>("mean_pool_mask_type",
                        [](Given& g) {
                          ops::mean_pool(g.f32({2, 3, 4}), Tensor::full({2, 3}, 1));
                        },
                        {"mean_pool:", "float32", "bool"}),
      error<ShapeError>("mean_pool_mask_shape",
                        [](Given& g) {
                          ops::mean_pool(g.f32({2, 3, 4}), all_true({2, 4}));
                        },
                        {"mean_pool:", "[2, 4]", "[2, 3]"}),
      error<ShapeError>("max_pool_mask_shape",
                        [](Given& g) {
                          ops::max_pool(g.f32({2, 3, 4}), all_true({3}));
                        },
                        {"max_pool:", "[3]", "[2, 3]"}),
      error<ShapeError>("max_pool_no_tokens",
                        [](Given& g) {
                          ops::max_pool(g.f32({2, 0, 4}));
                        },
                        {"max_pool:", "[2, 0, 4]"}),
      error<ShapeError>("last_token_pool_mask_shape",
                        [](Given& g) {
                          ops::last_token_pool(g.f32({2, 3, 4}), all_true({3, 2}));
                        },
                        {"last_token_pool:", "[3, 2]", "[2, 3]"}),
      error<ValueError>("last_token_pool_dead_sample",
                        [](Given& g) {
                          Tensor valid = all_true({3, 2});
                          valid.slice(1, 2).fill(0);
                          ops::last_token_pool(g.f32({3, 2, 4}), valid);
                        },
                        {"last_token_pool:", "sample 1"}),
      error<ShapeError>("cls_pool_mask_shape",
                        [](Given& g) {
                          ops::cls_pool(g.f32({2, 3, 4}), all_true({3, 2}));
                        },
                        {"cls_pool:", "[3, 2]", "[2, 3]"}),
      error<ValueError>("cls_pool_dead_sample",
                        [](Given& g) {
                          Tensor valid = all_true({3, 2});
                          valid.slice(1, 2).fill(0);
                          ops::cls_pool(g.f32({3, 2, 4}), valid);
                        },
                        {"cls_pool:", "sample 1"}),
      error<ShapeError>("first_token_rank", [](Given&) { ops::first_token(Tensor::zeros({4}, DType::kInt64), 1); },
                        {"first_token:", "[4]", "[batch, tokens]"}),
      error<DTypeError>("first_token_type",
                        [](Given&) {
                          ops::first_token(Tensor::zeros({2, 3}), 1);
                        },
                        {"first_token:", "float32", "int32 or int64"}),
      error<ShapeError>("first_token_mask_shape",
                        [](Given&) {
                          ops::first_token(Tensor::zeros({2, 3}, DType::kInt64), 1, all_true({3, 2}));
                        },
                        {"first_token:", "[3, 2]", "[2, 3]"}),
      error<ShapeError>("token_positions_rank", [](Given&) { ops::token_positions(all_true({3}), 2); },
                        {"token_positions:", "[3]", "[batch, tokens]"}),
      error<DTypeError>("token_positions_type",
                        [](Given&) {
                          ops::token_positions(Tensor::zeros({2, 3}), 2);
                        },
                        {"token_positions:", "float32", "bool"}),
      error<ShapeError>("cls_pool_rank",
                        [](Given& g) {
                          ops::cls_pool(g.f32({2, 3}));
                        },
                        {"cls_pool:", "[2, 3]"}),
      error<ShapeError>("cls_pool_no_tokens",
                        [](Given& g) {
                          ops::cls_pool(g.f32({2, 0, 3}));
                        },
                        {"cls_pool:", "[2, 0, 3]"}),
  };
}

std::vector<ErrorCase> index_cases() {
  return {
      error<ValueError>("cross_entropy_target",
                        [](Given& g) {
                          ops::cross_entropy(g.f32({3, 4}), Tensor::from<std::int64_t>({0, 4, 9}, {3}));
                        },
                        {"cross_entropy:", "[1]", "4", "3"}),
      error<ValueError>("cross_entropy_negative_target",
                        [](Given& g) {
                          ops::cross_entropy(g.f32({3, 4}), whole({3}, -1));
                        },
                        {"cross_entropy:", "[0]", "-1"}),
      error<ShapeError>("cross_entropy_target_count",
                        [](Given& g) {
                          ops::cross_entropy(g.f32({3, 4}), whole({2}));
                        },
                        {"cross_entropy:", "[2]", "[3]"}),
      error<ShapeError>("cross_entropy_target_rank",
                        [](Given& g) {
                          ops::cross_entropy(g.f32({3, 4}), whole({3, 1}));
                        },
                        {"cross_entropy:", "[3, 1]", "[3]"}),
      error<DTypeError>("cross_entropy_target_type",
                        [](Given& g) {
                          ops::cross_entropy(g.f32({3, 4}), Tensor::zeros({3}));
                        },
                        {"cross_entropy:", "float32", "int64"}),
      error<Error>("cross_entropy_no_targets",
                   [](Given& g) {
                     ops::cross_entropy(g.f32({3, 4}), {});
                   },
                   {"cross_entropy:", "undefined"}),
      error<ShapeError>("cross_entropy_rank", [](Given& g) { ops::cross_entropy(g.f32({4}), whole({4})); },
                        {"cross_entropy:", "[4]"}),
      error<ShapeError>("cross_entropy_mean_of_nothing",
                        [](Given& g) {
                          ops::cross_entropy(g.f32({0, 4}), whole({0}));
                        },
                        {"cross_entropy:", "[0, 4]"}),
      error<ValueError>("embedding_id",
                        [](Given& g) {
                          ops::embedding(g.f32({5, 2}), Tensor::from<std::int32_t>({4, 5, -1}, {3}));
                        },
                        {"embedding:", "[1]", "5", "4"}),
      error<ValueError>("embedding_id_beyond_int32",
                        [](Given& g) {
                          ops::embedding(g.f32({5, 2}), whole({1}, 4294967296.0));
                        },
                        {"embedding:", "4294967296"}),
      error<DTypeError>("embedding_id_type",
                        [](Given& g) {
                          ops::embedding(g.f32({5, 2}), Tensor::zeros({2}));
                        },
                        {"embedding:", "float32", "int64"}),
      error<ShapeError>("embedding_table_rank",
                        [](Given& g) {
                          ops::embedding(g.f32({5, 2, 2}), whole({2}));
                        },
                        {"embedding:", "[5, 2, 2]"}),
      error<ValueError>("embedding_of_empty_table",
                        [](Given& g) {
                          ops::embedding(g.f32({0, 2}), whole({1}));
                        },
                        {"embedding:", "0"}),
      error<ShapeError>("embedding_too_many_axes",
                        [](Given& g) {
                          ops::embedding(g.f32({5, 2}), whole({1, 1, 1, 1, 1, 1}));
                        },
                        {"6"}),
      error<ValueError>("gather_rows_index",
                        [](Given& g) {
                          ops::gather_rows(g.f32({3, 2}), whole({2}, 3));
                        },
                        {"gather_rows:", "[0]", "3", "2"}),
      error<ShapeError>("gather_rows_index_rank",
                        [](Given& g) {
                          ops::gather_rows(g.f32({3, 2}), whole({2, 1}));
                        },
                        {"gather_rows:", "[2, 1]"}),
      error<ShapeError>("gather_rows_scalar", [](Given& g) { ops::gather_rows(g.f32({}), whole({2})); },
                        {"gather_rows:", "[]"}),
      error<ValueError>("select_token_index",
                        [](Given& g) {
                          ops::select_token(g.f32({2, 3, 4}), whole({2}, 3));
                        },
                        {"select_token:", "[0]", "3", "2"}),
      error<ShapeError>("select_token_index_count",
                        [](Given& g) {
                          ops::select_token(g.f32({2, 3, 4}), whole({3}));
                        },
                        {"select_token:", "[3]", "[2]"}),
  };
}

std::vector<ErrorCase> layout_cases() {
  return {
      error<ShapeError>("reshape_inferred",
                        [](Given& g) {
                          ops::reshape(g.f32({2, 3}), {-1, 4});
                        },
                        {"reshape:", "[2, 3]", "6", "[-1, 4]", "4"}),
      error<ShapeError>("reshape_count",
                        [](Given& g) {
                          ops::reshape(g.f32({2, 3}), {4});
                        },
                        {"reshape:", "[2, 3]", "6", "[4]", "4"}),
      error<ValueError>("concat_nothing", [](Given&) { ops::concat({}); }, {"concat:", "no parts"}),
      error<ShapeError>("concat_shapes",
                        [](Given& g) {
                          ops::concat(std::vector{g.f32({2, 3}), g.f32({2, 4})}, 0);
                        },
                        {"concat:", "part 1", "[2, 4]", "[2, 3]"}),
      error<ShapeError>("concat_rank",
                        [](Given& g) {
                          ops::concat(std::vector{g.f32({2, 3}), g.f32({3})}, 0);
                        },
                        {"concat:", "part 1", "[3]", "[2, 3]"}),
      error<ShapeError>("concat_axis",
                        [](Given& g) {
                          ops::concat(std::vector{g.f32({2, 3})}, 2);
                        },
                        {"concat:", "axis", "2", "[2, 3]"}),
      error<ShapeError>("concat_scalars",
                        [](Given& g) {
                          ops::concat(std::vector{g.f32({}), g.f32({})});
                        },
                        {"concat:", "[]"}),
      error<DTypeError>("concat_mixed_types",
                        [](Given& g) {
                          ops::concat(std::vector{g.f32({2}), g.f64({2})});
                        },
                        {"concat: part 0 is float32 and part 1 is float64, expected one type"}),
      error<Error>("concat_undefined",
                   [](Given& g) {
                     ops::concat(std::vector{g.f32({2}), Variable()});
                   },
                   {"concat:", "part 1", "undefined"}),
      error<ShapeError>("slice_beyond",
                        [](Given& g) {
                          ops::slice(g.f32({2, 3}), 1, 1, 4);
                        },
                        {"slice:", "[1, 4)", "3", "[2, 3]"}),
      error<ShapeError>("slice_negative",
                        [](Given& g) {
                          ops::slice(g.f32({2, 3}), 0, -1, 1);
                        },
                        {"slice:", "[-1, 1)", "[2, 3]"}),
      error<ShapeError>("slice_backwards",
                        [](Given& g) {
                          ops::slice(g.f32({2, 3}), 1, 2, 1);
                        },
                        {"slice:", "[2, 1)", "[2, 3]"}),
      error<ShapeError>("slice_axis",
                        [](Given& g) {
                          ops::slice(g.f32({2, 3}), 2, 0, 1);
                        },
                        {"slice:", "axis", "2", "[2, 3]"}),
      error<ShapeError>("slice_scalar", [](Given& g) { ops::slice(g.f32({}), 0, 0, 1); }, {"slice:", "[]"}),
      error<ShapeError>("transpose_axis",
                        [](Given& g) {
                          ops::transpose(g.f32({2, 3}), 0, 2);
                        },
                        {"transpose:", "axis", "2", "[2, 3]"}),
      error<ShapeError>("layer_norm_residual",
                        [](Given& g) {
                          ops::layer_norm(g.f32({2, 3}), g.f32({3}), g.f32({3}), 1e-5, g.f32({3}));
                        },
                        {"layer_norm:", "residual", "[3]", "[2, 3]"}),
      error<ShapeError>("layer_norm_weight",
                        [](Given& g) {
                          ops::layer_norm(g.f32({2, 3}), g.f32({2}), g.f32({3}));
                        },
                        {"layer_norm:", "weight", "[2]", "[3]"}),
      error<ShapeError>("layer_norm_bias",
                        [](Given& g) {
                          ops::layer_norm(g.f32({2, 3}), g.f32({3}), g.f32({1, 3}));
                        },
                        {"layer_norm:", "bias", "[1, 3]", "[3]"}),
      error<DTypeError>("layer_norm_mixed_types",
                        [](Given& g) {
                          ops::layer_norm(g.f32({2, 3}), g.f32({3}), g.f64({3}));
                        },
                        {"layer_norm:", "bias", "float64", "float32"}),
      error<ShapeError>("layer_norm_scalar", [](Given& g) { ops::layer_norm(g.f32({}), g.f32({1}), g.f32({1})); },
                        {"layer_norm:", "[]"}),
      error<ShapeError>("layer_norm_empty",
                        [](Given& g) {
                          ops::layer_norm(g.f32({2, 0}), g.f32({0}), g.f32({0}));
                        },
                        {"layer_norm:", "[2, 0]"}),
      error<ShapeError>("l2_normalize_scalar", [](Given& g) { ops::l2_normalize(g.f32({})); }, {"l2_normalize:", "[]"}),
  };
}

const ErrorTests tests_of_values({binary_cases(), value_cases(), axis_cases(), mask_cases(), index_cases(),
                                  layout_cases()},
                                 __FILE__);

}  // namespace
