#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "checks.h"
#include "devices.h"
#include "tapecache/autograd/modes.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/ops/attention.h"
#include "tapecache/ops/linear.h"

// Results of 16 bits between ops (ResultType::kOperand), on the device under test, against the same ops in f64 on the
// CPU.

using namespace tapecache;
using namespace tapecache::testing;

namespace {

using Span = std::span<const Variable>;
using Function = std::function<Variable(Span)>;

constexpr auto kOperand = ops::ResultType::kOperand;

/// Units in the last place of the type, relative to 1.
double unit(DType low) { return low == DType::kBFloat16 ? 0x1p-8 : 0x1p-11; }

struct Run {
  Tensor output;
  std::vector<Tensor> gradients;
};

Run run(const Function& f, const std::vector<Tensor>& inputs, const Tensor& cotangent, DType autocast) {
  Tape tape;
  std::vector<Variable> leaves;
  for (const Tensor& input : inputs) leaves.push_back(tape.leaf(input));
  Variable y;
  {
    const Autocast precision(autocast);
    const Recording recording(tape);
    y = f(leaves);
  }
  inject(tape, std::span(&y, 1), std::span(&cotangent, 1));
  Run found{y.value(), {}};
  for (const Variable& leaf : leaves) found.gradients.push_back(tape.gradient(leaf));
  return found;
}

/// ‖found - expected‖ / ‖expected‖, NaN where one holds a NaN.
double relative_distance(const Tensor& found, const Tensor& expected) {
  const std::vector<double> a = doubles(found), b = doubles(expected);
  BOOST_REQUIRE_EQUAL(a.size(), b.size());
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    size += b[i] * b[i];
  }
  return std::sqrt(difference / size);
}

/// In 16 bits and in f64, the same values: those of f32 rounded once, so that a comparison sees what the ops add.
void compare(const Function& f, const std::vector<Tensor>& inputs, const Shape& out, DType low, double units) {
  std::vector<Tensor> wide, narrow;
  for (const Tensor& input : inputs) {
    const Tensor once = input.to(low);
    wide.push_back(once.to(DType::kFloat64));
    narrow.push_back(once.to(DType::kFloat32).to(kDevice));
  }
  const Tensor cotangent = random_values(out, 99).to(low);
  const Run expected = run(f, wide, cotangent.to(DType::kFloat64), DType::kFloat32);
  const Run found = run(f, narrow, cotangent.to(DType::kFloat32).to(kDevice), low);
  BOOST_TEST(relative_distance(found.output, expected.output) <= units * unit(low));
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    BOOST_REQUIRE(found.gradients[i].defined());
    BOOST_TEST((found.gradients[i].dtype() == DType::kFloat32));
    BOOST_TEST(relative_distance(found.gradients[i], expected.gradients[i]) <= units * unit(low),
               "gradient " << i << " in " << name(low));
  }
}

Tensor weights(const Shape& shape, std::uint64_t seed) {
  Tensor t = random_values(shape, seed);
  double* p = t.mutable_data<double>();
  for (std::int64_t i = 0; i < t.numel(); ++i) p[i] /= std::sqrt(static_cast<double>(shape[-1]));
  return t;
}

void check_type(const Variable& v, DType low) {
  // In the run in f64 nothing is of 16 bits.
  if (v.dtype() != DType::kFloat64) BOOST_TEST((v.dtype() == low));
}

void check_block(ops::Activation activation, std::int64_t hidden_width, DType low) {
  const auto block = [=](Span x) {  // a bias of the keys would have no gradient
    const Variable qkv_weights[] = {x[3], x[4], x[5]}, qkv_biases[] = {x[6], {}, x[7]};
    const ops::NormalizedLinear qkv =
        ops::normalized_linear(x[0], {x[1], x[2]}, qkv_weights, qkv_biases, ops::KeepNorm::kNo, kOperand);
    check_type(qkv.y, low);
    BOOST_TEST(!qkv.normalized.defined());
    const Variable attended = ops::attention(qkv.y, 2, {.causal = true, .valid = {}, .result = kOperand});
    check_type(attended, low);
    const Variable sum = ops::linear(attended, x[8], x[9], x[0]);
    const Variable w1[] = {x[12]}, b1[] = {x[13]};
    const auto [hidden, normalized] =
        ops::normalized_linear(sum, {x[10], x[11]}, w1, b1, ops::KeepNorm::kYes, kOperand);
    check_type(hidden, low);
    return ops::activated_linear(hidden, activation, x[14], x[15], normalized);
  };
  constexpr std::int64_t kWidth = 32;
  std::vector<Tensor> inputs{random_values({3, 7, kWidth}, 1), random_values({kWidth}, 2), random_values({kWidth}, 3)};
  for (std::uint64_t i = 0; i < 3; ++i) inputs.push_back(weights({kWidth, kWidth}, 4 + i));
  for (std::uint64_t i = 0; i < 2; ++i) inputs.push_back(random_values({kWidth}, 7 + i));
  inputs.insert(inputs.end(),
                {weights({kWidth, kWidth}, 10), random_values({kWidth}, 11), random_values({kWidth}, 12),
                 random_values({kWidth}, 13), weights({hidden_width, kWidth}, 14), random_values({hidden_width}, 15),
                 weights({kWidth, hidden_width}, 16), random_values({kWidth}, 17)});
  compare(block, inputs, {3, 7, kWidth}, low, 6);
}

/// The ops of a transformer block one after another: what is between them is of 16 bits, and the gradients near.
void check_block(DType low) {
  check_block(ops::Activation::kQuickGelu, 72, low);
  // cuBLASLt multiplies by this one's derivative itself, where rows are multiples of 8 elements.
  check_block(ops::Activation::kGeluTanh, 72, low);
  check_block(ops::Activation::kGeluTanh, 70, low);
}

/// A block with rotary positions, heads that share keys, a window and a gated perceptron.
void check_gated_block(DType low) {
  constexpr std::int64_t kWidth = 32, kHeads = 4, kKvHeads = 2, kHidden = 24, kHeadWidth = 8;
  constexpr std::int64_t kPacked = (kHeads + 2 * kKvHeads) * kHeadWidth;
  const auto block = [=](Span x) {
    const Variable qkv = ops::linear(x[0], x[1], {}, {}, kOperand);
    const std::vector<double> frequencies{1, 0.5, 0.1, 0.01};
    const Tensor angles = ops::rope_table(frequencies, 80, x[0].dtype()).to(x[0].device());
    const Variable rotated = ops::rope(qkv, kHeads + kKvHeads, angles);
    check_type(rotated, low);
    ops::AttentionOptions options{.result = kOperand};
    options.kv_heads = kKvHeads;
    options.window = 9;
    const Variable attended = ops::attention(rotated, kHeads, options);
    check_type(attended, low);
    const Variable sum = ops::linear(attended, x[2], {}, x[0]);
    const Variable hidden = ops::gated(ops::Activation::kGelu, ops::linear(sum, x[3], {}, {}, kOperand));
    check_type(hidden, low);
    return ops::linear(hidden, x[4], {}, sum);
  };
  compare(block,
          {random_values({2, 70, kWidth}, 1), weights({kPacked, kWidth}, 2), weights({kWidth, kHeads * kHeadWidth}, 3),
           weights({2 * kHidden, kWidth}, 4), weights({kWidth, kHidden}, 5)},
          {2, 70, kWidth}, low, 6);
}

/// One such result that each op which takes it reads, so that its gradient is added up in 16 bits.
void check_readers(DType low) {
  const auto readers = [=](Span x) {
    const Variable z = ops::linear(x[0], x[1], x[2], {}, kOperand);
    check_type(z, low);
    const Variable parts[] = {x[3], x[3]};
    Variable sum = ops::linear(z, x[3], x[4]);
    sum = ops::activated_linear(z, ops::Activation::kGelu, x[3], {}, sum);
    sum = ops::add(sum, ops::attention(z, 2));
    sum = ops::add(sum, ops::linear(ops::gated(ops::Activation::kSilu, z), x[6]));
    const std::vector<double> frequencies{1, 0.25};
    const Tensor angles = ops::rope_table(frequencies, 6, x[0].dtype()).to(x[0].device());
    sum = ops::linear(ops::rope(z, 2, angles), x[3], {}, sum);
    sum = ops::activated_linear(z, ops::Activation::kSilu, x[3], {}, sum);
    return ops::linear(ops::multi_linear(z, parts, {}, kOperand), x[5], {}, sum);
  };
  const std::vector<Tensor> inputs{random_values({2, 6, 20}, 1), weights({24, 20}, 2),  random_values({24}, 3),
                                   weights({8, 24}, 4),          random_values({8}, 5), weights({8, 16}, 6),
                                   weights({8, 12}, 7)};
  compare(readers, inputs, {2, 6, 8}, low, 6);
}

/// A product that is cut into several parts, with and without a bias, written and accumulated.
void check_large_product(DType low) {
  const auto product = [](Span x) {
    const Variable z = ops::linear(x[0], x[1], x.size() > 3 ? x[3] : Variable(), {}, kOperand);
    return ops::linear(z, x[2], {}, ops::linear(z, x[2]));
  };
  std::vector<Tensor> inputs{random_values({700, 300}, 1), weights({90, 300}, 2), weights({300, 90}, 3)};
  compare(product, inputs, {700, 300}, low, 4);
  inputs.push_back(random_values({90}, 4));
  compare(product, inputs, {700, 300}, low, 4);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(low_precision)

BOOST_AUTO_TEST_CASE(a_block_in_bf16, *on_device) { check_block(DType::kBFloat16); }
BOOST_AUTO_TEST_CASE(a_block_in_f16, *on_device) { check_block(DType::kFloat16); }
BOOST_AUTO_TEST_CASE(a_gated_block_in_bf16, *on_device) { check_gated_block(DType::kBFloat16); }
BOOST_AUTO_TEST_CASE(a_gated_block_in_f16, *on_device) { check_gated_block(DType::kFloat16); }
BOOST_AUTO_TEST_CASE(several_readers_in_bf16, *on_device) { check_readers(DType::kBFloat16); }
BOOST_AUTO_TEST_CASE(several_readers_in_f16, *on_device) { check_readers(DType::kFloat16); }
BOOST_AUTO_TEST_CASE(large_products_in_bf16, *on_device) { check_large_product(DType::kBFloat16); }
BOOST_AUTO_TEST_CASE(large_products_in_f16, *on_device) { check_large_product(DType::kFloat16); }

BOOST_AUTO_TEST_CASE(results_of_16_bits_are_read_outside_of_the_scope_too, *on_device) {
  const auto single = [](const Shape& shape, std::uint64_t seed) {
    return random_values(shape, seed, DType::kFloat32).to(kDevice);
  };
  const Tensor x = single({5, 8}, 1), w = single({6, 8}, 2), next = single({4, 6}, 3);
  const auto hidden = [&] {
    const Autocast on(DType::kFloat16);
    return ops::linear(x, w, {}, {}, ops::ResultType::kOperand);
  }();
  BOOST_TEST(hidden.dtype() == DType::kFloat16);
  const Tensor y = ops::linear(hidden, next).value(), wide = hidden.value().to(DType::kFloat32);
  BOOST_TEST(y.dtype() == DType::kFloat32);
  BOOST_TEST(max_difference(y, ops::linear(wide, next.to(DType::kFloat16).to(DType::kFloat32)).value()) <= 1e-6);
  // Without autocast there is nothing to round, and with a residual the result is of the residual's type.
  BOOST_TEST(ops::linear(x, w, {}, {}, ops::ResultType::kOperand).dtype() == DType::kFloat32);
  const Autocast on(DType::kFloat16);
  BOOST_TEST(ops::linear(x, w, {}, single({5, 6}, 4), ops::ResultType::kOperand).dtype() == DType::kFloat32);
}

BOOST_AUTO_TEST_SUITE_END()
