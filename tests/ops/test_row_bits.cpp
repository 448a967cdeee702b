#include <algorithm>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "checks.h"
#include "op_table.h"
#include "tapecache/autograd/modes.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/core/error.h"
#include "tapecache/core/parallel_for.h"
#include "tapecache/ops/attention.h"
#include "tapecache/ops/linear.h"

// What an op computes for a row of its batch has the same bits, whatever else is in the batch, wherever the row stands
// there, and on however many threads. Every op of the table whose rows are the same up to rounding has to give the same
// bits.

using namespace tapecache;
using namespace tapecache::testing;

namespace {

struct Result {
  Tensor output;
  std::vector<Tensor> gradients;  ///< of the inputs that are cut
};

/// Which inputs are rows of the batch, by the numbers of inputs.
using Batched = std::vector<bool>;

Result run_rows(const OpRow& row, const std::vector<Tensor>& inputs, const Batched& batched, const Tensor& cotangent) {
  Tape tape;
  std::vector<Variable> variables;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    variables.push_back(is_floating(inputs[i].dtype()) ? tape.leaf(inputs[i]) : Variable(inputs[i]));
  }
  Variable output;
  {
    const Recording recording(tape);
    output = row.op(variables);
  }
  Result result{output.value(), {}};
  if (!cotangent.defined() || !tape.holds(output)) return result;
  tape.backward(std::span(&output, 1), std::span(&cotangent, 1));
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (batched[i] && is_floating(inputs[i].dtype())) result.gradients.push_back(tape.gradient(variables[i]));
  }
  return result;
}

Tensor rows_of(const Tensor& x, std::int64_t first, std::int64_t count) {
  return x.slice(first, first + count).clone();
}

std::vector<Tensor> cut(const std::vector<Tensor>& inputs, const Batched& batched, std::int64_t first,
                        std::int64_t count) {
  std::vector<Tensor> result;
  for (std::size_t i = 0; i < inputs.size(); ++i)
    result.push_back(batched[i] ? rows_of(inputs[i], first, count) : inputs[i]);
  return result;
}

/// Inputs that are cut along their first axis, such that the op's rows stay the same up to rounding; none if there are
/// none.
std::optional<Batched> batched_inputs(const OpRow& row, const std::vector<Tensor>& inputs) {
  const Tensor& first = inputs.front();
  if (first.shape().rank() == 0 || first.size(0) < 2) return std::nullopt;
  const std::int64_t rows = first.size(0);
  Batched all, alone;
  for (const Tensor& input : inputs) {
    all.push_back(input.shape().rank() > 0 && input.size(0) == rows);
    alone.push_back(alone.empty());
  }
  const Result whole = run_rows(row, inputs, all, {});
  if (whole.output.shape().rank() == 0 || whole.output.size(0) != rows) return std::nullopt;
  for (const Batched& batched : {all, alone}) {
    try {
      const Result part = run_rows(row, cut(inputs, batched, 1, 1), batched, {});
      if (part.output.shape() != rows_of(whole.output, 1, 1).shape()) continue;
      if (max_difference(part.output, rows_of(whole.output, 1, 1)) <= 1e-2) return batched;
    } catch (const Error&) {
      // Cut so, the shapes do not fit: not rows of one batch.
    }
  }
  return std::nullopt;
}

/// Attention over what a product leaves in 16 bits under autocast, and whose gradient comes in 16 bits.
std::vector<OpRow> attention_of_16_bits() {
  std::vector<OpRow> rows;
  for (const bool causal : {false, true}) {
    for (const std::int64_t tokens : {50, 130, 600}) {
      rows.push_back(
          {.name = "attention_of_16_bits_" + std::to_string(tokens) + (causal ? "_causal" : ""),
           .inputs = {floating({5, tokens, 48}), mask({5, tokens}), floating({3 * 48, 48}), floating({24, 48})},
           .op =
               [causal](std::span<const Variable> x) {
                 const Variable qkv = ops::linear(x[0], x[2], {}, {}, ops::ResultType::kOperand);
                 return ops::linear(
                     ops::attention(qkv, 3,
                                    {.causal = causal, .valid = x[1].value(), .result = ops::ResultType::kOperand}),
                     x[3]);
               },
           .reference = {}});
    }
  }
  return rows;
}

/// The ops of the table that are computed row by row, each checked.
std::set<std::string> check_rows(DType dtype, DType precision) {
  std::set<std::string> found;
  const Autocast autocast(precision);
  const int threads = thread_count();
  std::vector<OpRow> rows_of_ops = op_rows();
  for (const OpRow& row : attention_of_16_bits()) rows_of_ops.push_back(row);
  for (const OpRow& row : rows_of_ops) {
    const std::vector<Tensor> inputs = make_inputs(row.large.empty() ? row.inputs : row.large, dtype);
    if (inputs.empty() || row.name.starts_with("drop")) continue;  // what is drawn goes by the position
    const std::optional<Batched> batched = batched_inputs(row, inputs);
    if (!batched) continue;
    found.insert(row.name);
    const std::int64_t rows = inputs.front().size(0);
    set_thread_count(2);
    const Tensor output = run_rows(row, inputs, *batched, {}).output;
    const Tensor cotangent = random_tensor(output.shape(), output.dtype(), 99);
    const Result whole = run_rows(row, inputs, *batched, cotangent);
    struct Piece {
      std::int64_t first, count;
      int threads;
    };
    for (const Piece& piece : {Piece{0, 1, 1}, {rows - 1, 1, 4}, {1, rows - 1, 1}, {rows / 3, rows / 2, 4}}) {
      if (piece.count == 0) continue;
      set_thread_count(piece.threads);
      const Result part = run_rows(row, cut(inputs, *batched, piece.first, piece.count), *batched,
                                   rows_of(cotangent, piece.first, piece.count));
      const std::string what = row.name + ", " + std::string(name(dtype)) + " under " + std::string(name(precision)) +
                               ", rows " + std::to_string(piece.first) + " + " + std::to_string(piece.count) + " of " +
                               std::to_string(rows);
      BOOST_TEST(same_bits(part.output, rows_of(whole.output, piece.first, piece.count)), what);
      BOOST_REQUIRE(part.gradients.size() == whole.gradients.size());
      for (std::size_t i = 0; i < part.gradients.size(); ++i) {
        if (!whole.gradients[i].defined()) continue;
        BOOST_TEST(same_bits(part.gradients[i], rows_of(whole.gradients[i], piece.first, piece.count)),
                   "gradient " << i << " of " << what);
      }
    }
    set_thread_count(threads);
  }
  return found;
}

/// Some of each family, so that what is found row by row is not less than it was.
void check_found(const std::set<std::string>& found) {
  for (const char* name : {"softmax", "log_softmax", "masked_softmax", "layer_norm", "l2_normalize", "attention",
                           "attention_causal", "attention_padding", "attention_long_causal", "attention_of_16_bits_50",
                           "attention_of_16_bits_600_causal", "cross_entropy_none", "mean_pool", "max_pool_padding",
                           "select_token", "linear", "gelu", "matmul_nn", "matmul_nt"}) {
    BOOST_TEST(found.contains(name), name << " is not among the ops that are computed row by row");
  }
}

}  // namespace

BOOST_AUTO_TEST_SUITE(row_bits)

BOOST_AUTO_TEST_CASE(float32) { check_found(check_rows(DType::kFloat32, DType::kFloat32)); }

BOOST_AUTO_TEST_CASE(float64) { check_found(check_rows(DType::kFloat64, DType::kFloat32)); }

BOOST_AUTO_TEST_CASE(bfloat16_products) { check_found(check_rows(DType::kFloat32, DType::kBFloat16)); }

BOOST_AUTO_TEST_CASE(float16_products) { check_found(check_rows(DType::kFloat32, DType::kFloat16)); }

BOOST_AUTO_TEST_SUITE_END()
