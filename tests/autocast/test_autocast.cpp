#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <stdexcept>
#include <vector>

#include "checks.h"
#include "tapecache/autograd/function.h"
#include "tapecache/autograd/modes.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/core/parallel_for.h"
#include "tapecache/ops/attention.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/linear.h"
#include "tapecache/ops/normalize.h"

using namespace tapecache;
using namespace tapecache::testing;

namespace {

using Span = std::span<const Variable>;
using Function = std::function<Variable(Span)>;

Tensor rounded(const Tensor& x, DType low = DType::kBFloat16) { return x.to(low).to(DType::kFloat32); }

/// The value, then the gradients of <c, f> in f64 or f32, as the inputs are.
std::vector<Tensor> run(const Function& f, const std::vector<Tensor>& inputs, const Tensor& cotangent) {
  Tape tape;
  std::vector<Variable> leaves;
  for (const Tensor& input : inputs) leaves.push_back(tape.leaf(input));
  Variable y;
  {
    const Recording recording(tape);
    y = f(leaves);
  }
  inject(tape, std::span(&y, 1), std::span(&cotangent, 1));
  std::vector<Tensor> found{y.value()};
  for (const Variable& leaf : leaves) found.push_back(tape.gradient(leaf));
  return found;
}

std::vector<Tensor> under(DType low, const Function& f, const std::vector<Tensor>& inputs, const Tensor& cotangent) {
  const Autocast autocast(low);
  return run(f, inputs, cotangent);
}

std::vector<Tensor> under_bfloat16(const Function& f, const std::vector<Tensor>& inputs, const Tensor& cotangent) {
  return under(DType::kBFloat16, f, inputs, cotangent);
}

/// What autocast means: the same product over rounded operands and a rounded gradient. `exact` names the inputs
/// that stay as they are.
void check_products_in(DType low, const Function& f, const std::vector<Tensor>& inputs, const Shape& out,
                       const std::vector<std::size_t>& exact) {
  // f16 is widened and then multiplied as f32 is, whose sums have an error of their own.
  const DType wide = low == DType::kFloat16 ? DType::kFloat32 : DType::kFloat64;
  const Tensor cotangent = single(out, 99);
  std::vector<Tensor> reference;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const bool as_is = std::find(exact.begin(), exact.end(), i) != exact.end();
    reference.push_back((as_is ? inputs[i] : rounded(inputs[i], low)).to(wide));
  }
  const auto found = under(low, f, inputs, cotangent);
  const auto expected = run(f, reference, rounded(cotangent, low).to(wide));
  const auto unrounded_gradient = run(f, reference, cotangent.to(wide));
  for (std::size_t i = 0; i < found.size(); ++i) {
    const bool bias = i > 0 && std::find(exact.begin(), exact.end(), i - 1) != exact.end();
    BOOST_TEST(found[i].dtype() == DType::kFloat32);
    BOOST_TEST(
        max_difference(found[i], bias ? unrounded_gradient[i] : expected[i]) <= (wide == DType::kFloat32 ? 1e-6 : 1e-5),
        "part " << i);
  }
  // And it is not what f32 gives.
  BOOST_TEST(max_difference(found[0], run(f, inputs, cotangent)[0]) > (low == DType::kBFloat16 ? 1e-4 : 1e-5));
}

void check_products(const Function& f, const std::vector<Tensor>& inputs, const Shape& out,
                    const std::vector<std::size_t>& exact = {}) {
  for (const DType low : {DType::kBFloat16, DType::kFloat16}) check_products_in(low, f, inputs, out, exact);
}

double rounded(double x) { return static_cast<double>(static_cast<float>(BFloat16(static_cast<float>(x)))); }

/// Attention of qkv [2, 6, 3, 2, 4] and the gradient of <dy, attention>, with those weights rounded that enter a
/// product: exp(score - maximum) in forward, probabilities and the scores' gradients in backward; and y for the latter.
std::array<std::vector<double>, 2> attention_over_rounded(const std::vector<double>& qkv,
                                                          const std::vector<double>& valid, bool causal,
                                                          const std::vector<double>& dy) {
  constexpr int kBatch = 2, kTokens = 6, kHeads = 2, kWidth = 4;
  std::vector<double> y(dy.size()), dqkv(qkv.size());
  for (int sample = 0; sample < kBatch; ++sample) {
    for (int head = 0; head < kHeads; ++head) {
      const auto at = [&](int token, int which, int d) {
        return static_cast<std::size_t>((((sample * kTokens + token) * 3 + which) * kHeads + head) * kWidth + d);
      };
      const auto out = [&](int token, int d) {
        return static_cast<std::size_t>(((sample * kTokens + token) * kHeads + head) * kWidth + d);
      };
      for (int i = 0; i < kTokens; ++i) {
        std::array<double, kTokens> score{}, slope{};
        double largest = -1e300, sum = 0, dot = 0;
        const auto allowed = [&](int j) {
          return valid[static_cast<std::size_t>(sample * kTokens + j)] != 0 && (!causal || j <= i);
        };
        for (int j = 0; j < kTokens; ++j) {
          for (int d = 0; d < kWidth; ++d) {
            score[static_cast<std::size_t>(j)] += qkv[at(i, 0, d)] * qkv[at(j, 1, d)] / std::sqrt(kWidth);
            slope[static_cast<std::size_t>(j)] += dy[out(i, d)] * qkv[at(j, 2, d)];
          }
          if (allowed(j)) largest = std::max(largest, score[static_cast<std::size_t>(j)]);
        }
        for (int j = 0; j < kTokens; ++j) {
          if (!allowed(j)) continue;
          const double weight = std::exp(score[static_cast<std::size_t>(j)] - largest);
          sum += weight;
          for (int d = 0; d < kWidth; ++d) y[out(i, d)] += rounded(weight) * qkv[at(j, 2, d)];
        }
        for (int d = 0; d < kWidth; ++d) {
          y[out(i, d)] /= sum;
          dot += dy[out(i, d)] * rounded(y[out(i, d)]);
        }
        for (int j = 0; j < kTokens; ++j) {
          if (!allowed(j)) continue;
          const double p = std::exp(score[static_cast<std::size_t>(j)] - largest) / sum;
          const double ds = rounded(p * (slope[static_cast<std::size_t>(j)] - dot) / std::sqrt(kWidth));
          for (int d = 0; d < kWidth; ++d) {
            dqkv[at(i, 0, d)] += ds * qkv[at(j, 1, d)];
            dqkv[at(j, 1, d)] += ds * qkv[at(i, 0, d)];
            dqkv[at(j, 2, d)] += rounded(p) * dy[out(i, d)];
          }
        }
      }
    }
  }
  return {y, dqkv};
}

}  // namespace

BOOST_AUTO_TEST_SUITE(autocast)

BOOST_AUTO_TEST_CASE(products_take_rounded_operands) {
  check_products([](Span x) { return ops::linear(x[0], x[1], x[2]); },
                 {single({4, 9, 30}, 1), single({20, 30}, 2), single({20}, 3)}, {4, 9, 20}, {2});
  check_products([](Span x) { return ops::linear(x[0], x[1]); }, {single({7, 30}, 1), single({20, 30}, 2)}, {7, 20});
  // Sizes that fill no vector of bf16, no pair and no block of terms.
  for (const std::int64_t k : {31, 64, 1041}) {
    for (const std::int64_t n : {5, 33, 64}) {
      for (const bool ta : {false, true}) {
        for (const bool tb : {false, true}) {
          check_products(
              [=](Span x) {
                return ops::matmul(x[0], x[1], {ta, tb});
              },
              {single(ta ? Shape{k, 17} : Shape{17, k}, 1), single(tb ? Shape{n, k} : Shape{k, n}, 2)}, {17, n});
        }
      }
    }
  }
  for (const bool ta : {false, true}) {
    for (const bool tb : {false, true}) {
      const Shape a = ta ? Shape{30, 7} : Shape{7, 30}, b = tb ? Shape{20, 30} : Shape{30, 20};
      const auto product = [=](Span x) { return ops::matmul(x[0], x[1], {.transpose_a = ta, .transpose_b = tb}); };
      const auto batched = [](const Shape& s) { return Shape{3, s[0], s[1]}; };
      check_products(product, {single(a, 1), single(b, 2)}, {7, 20});
      check_products(product, {single(batched(a), 1), single(batched(b), 2)}, {3, 7, 20});
      check_products(product, {single(batched(a), 1), single(b, 2)}, {3, 7, 20});
      check_products(product, {single(a, 1), single(batched(b), 2)}, {3, 7, 20});
    }
  }
  check_products([](Span x) { return ops::patch_embedding(x[0], x[1], x[2]); },
                 {single({2, 3, 8, 8}, 1), single({5, 3, 4, 4}, 2), single({5}, 3)}, {2, 4, 5}, {2});
}

BOOST_AUTO_TEST_CASE(activated_linear_rounds_before_and_after_the_activation) {
  for (const auto activation : {ops::Activation::kGelu, ops::Activation::kQuickGelu, ops::Activation::kRelu}) {
    const Tensor x = single({4, 9, 30}, 1), w = single({20, 30}, 2), b = single({20}, 3), c = single({4, 9, 20}, 99);
    const auto found =
        under_bfloat16([=](Span v) { return ops::activated_linear(v[0], activation, v[1], v[2]); }, {x, w, b}, c);
    const auto as_double = [](const Tensor& t) { return t.to(DType::kFloat64); };
    const auto activate = [=](Span v) { return ops::activate(activation, v[0]); };
    const Tensor z = as_double(rounded(x));
    const Tensor hidden = ops::activate(activation, z).value();
    const auto product = run([](Span v) { return ops::linear(v[0], v[1], v[2]); },
                             {as_double(rounded(hidden.to(DType::kFloat32))), as_double(rounded(w)), as_double(b)},
                             as_double(rounded(c)));
    BOOST_TEST(max_difference(found[0], product[0]) <= 1e-5);
    BOOST_TEST(max_difference(found[1], run(activate, {z}, product[1])[1]) <= 1e-5);
    BOOST_TEST(max_difference(found[2], product[2]) <= 1e-5);
  }
}

BOOST_AUTO_TEST_CASE(attention_rounds_its_weights_too) {
  Tensor valid = Tensor::full({2, 6}, 1, DType::kBool);
  valid.slice(1, 2).reshape({6}).slice(4, 6).fill(0);
  const Tensor qkv = single({2, 6, 24}, 1), cotangent = single({2, 6, 8}, 99);
  for (const bool causal : {false, true}) {
    const auto attention = [=](Span x) { return ops::attention(x[0], 2, {.causal = causal, .valid = valid}); };
    const auto found = under_bfloat16(attention, {qkv}, cotangent);
    const auto expected =
        attention_over_rounded(doubles(rounded(qkv)), doubles(valid), causal, doubles(rounded(cotangent)));
    for (std::size_t i = 0; i < 2; ++i) {
      // Rounded, as the result is: where a last bit of f32 decides, to the neighbour.
      const std::vector<double> values = doubles(found[i]);
      int elsewhere = 0;
      for (std::size_t e = 0; e < values.size(); ++e) {
        BOOST_TEST(std::abs(values[e] - expected[i][e]) <= 0x1p-8 * std::abs(expected[i][e]) + 1e-7, "part " << i);
        elsewhere += values[e] != rounded(expected[i][e]);
      }
      BOOST_TEST(elsewhere * 100 <= static_cast<int>(values.size()), "part " << i);
      // And it is what f32 gives, but for the rounding.
      const double from_single = max_difference(found[i], run(attention, {qkv}, cotangent)[i]);
      BOOST_TEST((from_single > 1e-4 && from_single <= 3e-2));
    }
  }
}

BOOST_AUTO_TEST_CASE(threads_do_not_show) {
  const int threads = thread_count();
  const auto product = [](Span x) { return ops::matmul(x[0], x[1]); };
  for (const std::int64_t k : {40, 600}) {
    const std::vector<Tensor> factors{single({333, k}, 3), single({k, 70}, 4)};
    const auto before = under_bfloat16(product, factors, single({333, 70}, 5));
    for (const int count : {1, 2, 5}) {
      set_thread_count(count);
      const auto found = under_bfloat16(product, factors, single({333, 70}, 5));
      for (std::size_t i = 0; i < found.size(); ++i) BOOST_TEST(same_bits(found[i], before[i]), count << " threads");
    }
    set_thread_count(threads);
  }
}

BOOST_AUTO_TEST_CASE(other_ops_and_other_types_are_left_alone) {
  const std::vector<Function> others{[](Span x) { return ops::multiply(x[0], x[1]); },
                                     [](Span x) { return ops::gelu(x[0]); }, [](Span x) { return ops::softmax(x[0]); },
                                     [](Span x) { return ops::l2_normalize(x[0]); }};
  const std::vector<Tensor> inputs{single({6, 8}, 1), single({6, 8}, 2)};
  const Tensor c = single({6, 8}, 3);
  for (const Function& f : others) {
    const std::vector<Tensor> needed(inputs.begin(), inputs.begin() + (&f == &others[0] ? 2 : 1));
    const auto found = under_bfloat16(f, needed, c), expected = run(f, needed, c);
    for (std::size_t i = 0; i < found.size(); ++i) BOOST_TEST(same_bits(found[i], expected[i]));
  }
  const auto product = [](Span x) { return ops::linear(x[0], x[1]); };
  const std::vector<Tensor> doubles_in{random_values({4, 8}, 1), random_values({5, 8}, 2)};
  const auto found = under_bfloat16(product, doubles_in, random_values({4, 5}, 3)),
             expected = run(product, doubles_in, random_values({4, 5}, 3));
  for (std::size_t i = 0; i < found.size(); ++i) BOOST_TEST(same_bits(found[i], expected[i]));
}

BOOST_AUTO_TEST_CASE(guards_nest_and_restore) {
  BOOST_TEST(Autocast::current() == DType::kFloat32);
  try {
    const Autocast on(DType::kBFloat16);
    BOOST_TEST(Autocast::current() == DType::kBFloat16);
    {
      const Autocast off(DType::kFloat32);
      BOOST_TEST(Autocast::current() == DType::kFloat32);
    }
    BOOST_TEST(Autocast::current() == DType::kBFloat16);
    throw std::runtime_error("stop");
  } catch (const std::runtime_error&) {
  }
  BOOST_TEST(Autocast::current() == DType::kFloat32);
  BOOST_CHECK_EXCEPTION(Autocast{DType::kInt32}, DTypeError, says({"int32", "bfloat16", "float16"}));
}

BOOST_AUTO_TEST_CASE(backward_works_as_was_recorded) {
  const auto product = [](Span x) { return ops::linear(x[0], x[1]); };
  const std::vector<Tensor> inputs{single({6, 8}, 1), single({5, 8}, 2)};
  const Tensor c = single({6, 5}, 3);
  const auto expected = under_bfloat16(product, inputs, c);
  Tape tape;
  const Variable x = tape.leaf(inputs[0]), w = tape.leaf(inputs[1]);
  Variable y;
  {
    const Autocast on(DType::kBFloat16);
    const Recording recording(tape);
    y = ops::linear(x, w);
  }
  for (const Tensor& saved : tape.nodes()[0].saved) BOOST_TEST(saved.dtype() == DType::kBFloat16);
  inject(tape, std::span(&y, 1), std::span(&c, 1));
  BOOST_TEST(same_bits(tape.gradient(x), expected[1]));
  BOOST_TEST(same_bits(tape.gradient(w), expected[2]));
}

BOOST_AUTO_TEST_CASE(checkpoints_replay_in_their_own_precision) {
  const auto two_layers = [](Span x) { return ops::linear(ops::tanh(ops::linear(x[0], x[1])), x[1]); };
  const auto checkpointed = [&](Span x) {
    return checkpoint([&](Span in) { return std::vector{two_layers(in)}; }, x).front();
  };
  const std::vector<Tensor> inputs{single({6, 8}, 1), single({8, 8}, 2)};
  const Tensor c = single({6, 8}, 3);
  const auto expected = under_bfloat16(two_layers, inputs, c);
  Tape tape;
  const std::vector<Variable> leaves{tape.leaf(inputs[0]), tape.leaf(inputs[1])};
  Variable y;
  {
    const Autocast on(DType::kBFloat16);
    const Recording recording(tape);
    y = checkpointed(leaves);
  }
  inject(tape, std::span(&y, 1), std::span(&c, 1));
  BOOST_TEST(same_bits(tape.gradient(leaves[0]), expected[1]));
  BOOST_TEST(same_bits(tape.gradient(leaves[1]), expected[2]));
}

BOOST_AUTO_TEST_CASE(f16_needs_a_loss_scale) {
  // A gradient of 2⁻²⁶ is nothing in f16. Times 2¹⁶ it is not, and divided by that again it is what f32 has.
  const Tensor x = single({5, 8}, 1), w = single({6, 8}, 2);
  const auto product = [](Span v) { return ops::linear(v[0], v[1]); };
  const auto weight_gradient = [&](double scale) {
    return under(DType::kFloat16, product, {x, w}, Tensor::full({5, 6}, scale * 0x1p-26))[2].to(DType::kFloat64);
  };
  for (const double value : doubles(weight_gradient(1))) BOOST_TEST(value == 0.0);
  std::vector<double> scaled = doubles(weight_gradient(65536));
  for (double& value : scaled) value /= 65536 * 0x1p-26;
  const auto expected = run(product, {x, w}, Tensor::full({5, 6}, 1));
  BOOST_TEST(max_difference(scaled, doubles(expected[2])) <= 2e-3);
}

BOOST_AUTO_TEST_CASE(no_rounded_weight_outlives_its_call) {
  // A copy made without a tape has no history: a cache of such copies would leave the weight without a gradient.
  Parameter w("w", single({5, 8}, 2));
  const Variable x = single({6, 8}, 1);
  const Autocast on(DType::kBFloat16);
  const Tensor first = ops::linear(x, w).value();
  Tape tape;
  Variable y;
  {
    const Recording recording(tape);
    y = ops::linear(x, w);
  }
  BOOST_TEST(same_bits(first, y.value()));
  const Tensor c = single({6, 5}, 3);
  inject(tape, std::span(&y, 1), std::span(&c, 1));
  BOOST_TEST(w.gradient().defined());
  w.mutable_value().fill(0.5);
  BOOST_TEST(!same_bits(first, ops::linear(x, w).value()));
}

BOOST_AUTO_TEST_CASE(numbers_that_do_not_fit) {
  Tensor x = Tensor::full({1, 1}, 3.4e38);
  const Variable one = Tensor::full({1, 1}, 1.0);
  const auto product = [&](double v) {
    x.fill(v);
    return ops::linear(x, one).value().item();
  };
  BOOST_TEST(std::isfinite(product(3.4e38)));
  const Autocast on(DType::kBFloat16);
  BOOST_TEST(std::isinf(product(3.4e38)));
  BOOST_TEST(std::isinf(product(std::numeric_limits<double>::infinity())));
  BOOST_TEST(std::isnan(product(std::numeric_limits<double>::quiet_NaN())));
  BOOST_TEST(product(1.00390625) == 1.0);  // half way between two: to even
  BOOST_TEST(product(1.01171875) == 1.015625);
}

BOOST_AUTO_TEST_SUITE_END()
