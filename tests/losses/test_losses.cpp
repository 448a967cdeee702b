#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "checks.h"
#include "loss_table.h"
#include "tapecache/autograd/gradcheck.h"
#include "tapecache/autograd/modes.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/core/parallel_for.h"
#include "tapecache/losses/losses.h"
#include "tapecache/ops/elementwise.h"

using namespace tapecache;
using namespace tapecache::losses;
using namespace tapecache::testing;
using tapecache::ops::EqualTargets;
using tapecache::ops::TileOptions;

namespace {

double value_of(const LossRow& row, DType dtype) {
  std::vector<Variable> inputs;
  for (const Tensor& input : row.inputs) inputs.emplace_back(input.to(dtype));
  return row.loss(inputs).value().item();
}

std::vector<Tensor> gradients_of(const LossRow& row, DType dtype) {
  Tape tape;
  std::vector<Variable> leaves;
  for (const Tensor& input : row.inputs) leaves.push_back(tape.leaf(input.to(dtype)));
  Variable loss;
  {
    const Recording recording(tape);
    loss = row.loss(leaves);
  }
  tape.backward(loss);
  std::vector<Tensor> gradients;
  for (const Variable& leaf : leaves) gradients.push_back(tape.gradient(leaf));
  return gradients;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(contrastive_losses)

BOOST_AUTO_TEST_CASE(equal_to_their_definitions) {
  for (const LossRow& row : loss_rows()) {
    const double expected = row.reference();
    BOOST_TEST(std::abs(value_of(row, DType::kFloat64) - expected) <= 1e-12 * std::max(1.0, std::abs(expected)),
               row.name);
    BOOST_TEST(std::abs(value_of(row, DType::kFloat32) - expected) <= 1e-5 * std::max(1.0, std::abs(expected)),
               row.name);
  }
}

BOOST_AUTO_TEST_CASE(derivatives) {
  for (const LossRow& row : loss_rows()) {
    const GradcheckResult result = gradcheck(row.loss, row.inputs);
    BOOST_TEST(result.passed, row.name << ": " << result.message);
    const auto exact = gradients_of(row, DType::kFloat64), single = gradients_of(row, DType::kFloat32);
    for (std::size_t i = 0; i < exact.size(); ++i) BOOST_TEST(max_difference(single[i], exact[i]) <= 1e-4, row.name);
  }
}

BOOST_AUTO_TEST_CASE(nothing_that_is_not_finite_on_the_way) {
  const AnomalyMode watching;
  for (const LossRow& row : loss_rows()) BOOST_CHECK_NO_THROW(gradients_of(row, DType::kFloat32));
}

BOOST_AUTO_TEST_CASE(the_same_bits_for_any_number_of_threads) {
  const int before = thread_count();
  for (const LossRow& row : loss_rows()) {
    set_thread_count(1);
    const auto expected = gradients_of(row, DType::kFloat32);
    for (const int threads : {2, 4}) {
      set_thread_count(threads);
      const auto found = gradients_of(row, DType::kFloat32);
      for (std::size_t i = 0; i < found.size(); ++i) BOOST_TEST(same_bits(found[i], expected[i]), row.name);
    }
  }
  set_thread_count(before);
}

BOOST_AUTO_TEST_CASE(two_equal_pairs_cost_nothing) {
  const Tensor x = Tensor::full({2, 3}, 0.5, DType::kFloat64), tokens = Tensor::full({2, 4, 3}, 0.5, DType::kFloat64),
               one = scalar(1), ids = Tensor::from<std::int64_t>({9, 9}, {2});
  for (const EqualTargets& equal : {EqualTargets{.target_ids = ids}, {.query_ids = ids}, {.equal_rows = true}}) {
    for (const Variable& loss :
         {info_nce(x, x, {.equal_targets = equal}), clip_loss(x, x, {.scale = one, .equal_targets = equal}),
          info_nce(x, x, {.label_smoothing = 0.1, .hardness = 2, .equal_targets = equal}),
          info_nce(x, x, {.equal_targets = equal, .tiles = TileOptions{}}),
          clip_loss(x, x, {.scale = one, .equal_targets = equal, .tiles = TileOptions{}}),
          nt_xent(x, x, {.equal_targets = equal}), gist_loss(x, x, x, x, {.scale = 1, .equal_targets = equal}),
          maxsim_loss(tokens, {}, tokens, {}, {.equal_targets = equal}),
          maxsim_loss(tokens, {}, tokens, {}, {.equal_targets = equal, .tiles = TileOptions{}})}) {
      BOOST_TEST(std::abs(loss.value().item()) <= 1e-14);
    }
  }
  BOOST_TEST(std::abs(info_nce(x, x).value().item() - std::log(2.0)) <= 1e-14);
}

BOOST_AUTO_TEST_CASE(rows_of_the_same_bits_are_equal_targets) {
  Tensor a = random_values({6, 4}, 1), b = random_values({6, 4}, 2), hard = random_values({12, 4}, 3);
  Tensor q = random_values({3, 2, 4}, 4), d = random_values({6, 3, 4}, 5), mask = Tensor::full({6, 3}, 1, DType::kBool);
  const auto repeat = [](Tensor& of, std::int64_t from, std::int64_t to) {
    of.slice(to, to + 1).copy_from(of.slice(from, from + 1));
  };
  repeat(a, 0, 4);  // images that are equal beside texts that are
  repeat(b, 1, 2);
  repeat(b, 1, 5);
  for (const std::int64_t to : {1, 5, 6}) repeat(hard, 0, to);
  // Documents 0, 3 and 4 are equal but for a token that is not valid; document 5 has another one valid.
  for (const std::int64_t to : {3, 4, 5}) repeat(d, 0, to);
  d.slice(3, 4).reshape({3, 4}).slice(2, 3).fill(7);
  for (const int at : {2, 11, 14, 15}) mask.mutable_data<bool>()[at] = false;
  const Tensor image_ids = Tensor::from<std::int64_t>({0, 1, 2, 3, 0, 5}, {6}),
               text_ids = Tensor::from<std::int32_t>({0, 1, 1, 3, 4, 1}, {6}),
               target_ids = Tensor::from<std::int64_t>({0, 0, 2, 3, 4, 0, 0, 7, 8, 9, 10, 11}, {12}),
               document_ids = Tensor::from<std::int64_t>({0, 1, 2, 0, 0, 5}, {6});
  struct Case {
    std::string name;
    std::function<Variable(std::span<const Variable>, const EqualTargets&)> loss;
    EqualTargets ids;
    std::vector<Tensor> inputs;
  };
  const EqualTargets of_pairs{.target_ids = text_ids, .query_ids = image_ids}, of_texts{.target_ids = text_ids},
      of_targets{.target_ids = target_ids}, of_documents{.target_ids = document_ids};
  using Span = std::span<const Variable>;
  const auto info = [](Span x, const EqualTargets& e, double smoothing, double hardness, const Tiles& tiles) {
    return info_nce(
        x[0], x[1],
        {.scale = 3, .label_smoothing = smoothing, .hardness = hardness, .equal_targets = e, .tiles = tiles});
  };
  const auto clip = [](Span x, const EqualTargets& e, double smoothing, double hardness, const Tiles& tiles) {
    return clip_loss(
        x[0], x[1],
        {.scale = 2.5, .label_smoothing = smoothing, .hardness = hardness, .equal_targets = e, .tiles = tiles});
  };
  const auto siglip = [](Span x, const EqualTargets& e, const Tiles& tiles) {
    return siglip_loss(x[0], x[1], {.scale = 2.5, .bias = -2, .equal_targets = e, .tiles = tiles});
  };
  const auto maxsim = [mask](Span x, const EqualTargets& e, const Tiles& tiles) {
    return maxsim_loss(x[0], {}, x[1], mask, {.scale = 2, .equal_targets = e, .tiles = tiles});
  };
  const TileOptions tile{4, 5}, small_tile{2, 2};
  const std::vector<Case> cases{
      {"info_nce", [=](Span x, const EqualTargets& e) { return info(x, e, 0.2, 0.5, std::nullopt); }, of_texts, {a, b}},
      {"info_nce, hard",
       [=](Span x, const EqualTargets& e) { return info(x, e, 0, 0, std::nullopt); },
       of_targets,
       {a, hard}},
      {"info_nce in tiles",
       [=](Span x, const EqualTargets& e) { return info(x, e, 0, 0, tile); },
       of_targets,
       {a, hard}},
      {"clip_loss",
       [=](Span x, const EqualTargets& e) { return clip(x, e, 0.2, 0.5, std::nullopt); },
       of_pairs,
       {a, b}},
      {"clip_loss in tiles", [=](Span x, const EqualTargets& e) { return clip(x, e, 0, 0, tile); }, of_pairs, {a, b}},
      {"siglip_loss", [=](Span x, const EqualTargets& e) { return siglip(x, e, std::nullopt); }, of_pairs, {a, b}},
      {"siglip_loss in tiles", [=](Span x, const EqualTargets& e) { return siglip(x, e, tile); }, of_pairs, {a, b}},
      {"nt_xent",
       [](Span x, const EqualTargets& e) { return nt_xent(x[0], x[1], {.equal_targets = e}); },
       of_pairs,
       {a, b}},
      {"gist_loss",
       [=](Span x, const EqualTargets& e) {
         return gist_loss(x[0], x[1], a, hard, {.scale = 1, .margin = -2, .equal_targets = e});
       },
       of_targets,
       {a, hard}},
      {"maxsim_loss", [=](Span x, const EqualTargets& e) { return maxsim(x, e, std::nullopt); }, of_documents, {q, d}},
      {"maxsim_loss in tiles",
       [=](Span x, const EqualTargets& e) { return maxsim(x, e, small_tile); },
       of_documents,
       {q, d}}};
  for (const Case& c : cases) {
    for (const DType dtype : {DType::kFloat64, DType::kFloat32}) {
      const auto outcome = [&](const EqualTargets& equal) {
        const LossRow row{c.name, c.inputs, [&](Span x) { return c.loss(x, equal); }, {}};
        std::vector<Tensor> all = gradients_of(row, dtype);
        all.push_back(Tensor::scalar(value_of(row, dtype)));
        return all;
      };
      const auto found = outcome({.equal_rows = true}), expected = outcome(c.ids), without = outcome({});
      for (std::size_t i = 0; i < found.size(); ++i)
        BOOST_TEST(same_bits(found[i], expected[i]), c.name << ", part " << i);
      BOOST_TEST(found.back().item() < without.back().item(), c.name);
    }
  }
}

BOOST_AUTO_TEST_CASE(small_losses_of_large_logits_keep_their_digits) {
  // Two of a class that are equal, and a third opposite to them.
  const Tensor rows = Tensor::from({1.0f, 0.0f, 1.0f, 0.0f, -1.0f, 0.0f}, {3, 2});
  const Tensor labels = Tensor::from<std::int64_t>({0, 0, 1}, {3});
  for (const float scale : {4.5f, 5.2f, 6.1f, 7.3f}) {
    const double expected = std::log1p(std::exp(-2 * static_cast<double>(scale)));
    const double loss = sup_con(rows, labels, {.scale = Tensor::scalar(scale)}).value().item();
    BOOST_TEST(std::abs(loss - expected) <= 1e-5 * expected, scale);
  }
  // Logits that are all 4096, of which each of 3 candidates has a third.
  const Tensor equal = Tensor::full({3, 1}, 64, DType::kFloat32), one = Tensor::scalar(1.0f);
  for (const bool with_ids : {false, true}) {
    InfoNceOptions options{.scale = one, .label_smoothing = 0.5};
    if (with_ids) options.equal_targets.target_ids = Tensor::from<std::int64_t>({1, 2, 3}, {3});
    const double loss = info_nce(equal, equal, options).value().item();
    BOOST_TEST(std::abs(loss - std::log(3.0)) <= 1e-6, with_ids);
  }
}

BOOST_AUTO_TEST_CASE(losses_of_many_candidates_keep_their_digits) {
  // Of 8192 candidates that are equal each has its share, however much of it is spread.
  const Tensor queries = Tensor::full({8, 1}, 0.95, DType::kFloat32),
               targets = Tensor::full({8192, 1}, 0.95, DType::kFloat32);
  for (const double smoothing : {0.0, 0.1, 0.9}) {
    for (const double hardness : {0.0, 0.5}) {
      const InfoNceOptions options{.label_smoothing = smoothing, .hardness = hardness};
      const double loss = info_nce(queries, targets, options).value().item();
      BOOST_TEST(std::abs(loss - std::log(8192.0)) <= 1e-6 * std::log(8192.0), smoothing << ", " << hardness);
    }
  }
  const double in_tiles = info_nce(queries, targets, {.tiles = {{}}}).value().item();
  BOOST_TEST(std::abs(in_tiles - std::log(8192.0)) <= 1e-6 * std::log(8192.0));
}

BOOST_AUTO_TEST_CASE(clip_scale_is_clamped_at_100) {
  const Tensor a = random_values({4, 3}, 5), b = random_values({4, 3}, 6);
  for (const Tiles& tiles : {Tiles{}, Tiles{TileOptions{}}}) {
    const auto of = [&](const Scale& scale) {
      return clip_loss(a, b, {.scale = scale, .tiles = tiles}).value().item();
    };
    BOOST_TEST(of(Scale::from_log(scalar(9.0))) == of(Scale::from_log(scalar(std::log(100.0)))));
    BOOST_TEST(of(170) == of(100));
    BOOST_TEST(of(scalar(170)) == of(100));
    BOOST_TEST(of(99) != of(100));
  }
  Parameter log_scale("log_scale", scalar(9.0));
  clamp_log_scale(log_scale);
  BOOST_TEST(log_scale.value().item() == std::log(100.0));
  Parameter below("log_scale", scalar(1.0));
  clamp_log_scale(below);
  BOOST_TEST(below.value().item() == 1.0);
  Parameter matrix("scales", Tensor::zeros({2, 2}));
  BOOST_CHECK_EXCEPTION(clamp_log_scale(matrix), ShapeError, says({"clamp_log_scale", "log_scale", "[2, 2]"}));
}

BOOST_AUTO_TEST_CASE(a_scale_is_a_number_a_variable_a_logarithm_or_a_temperature) {
  const Tensor like = Tensor::zeros({2, 2}, DType::kFloat32);
  const auto value = [&](const Scale& scale) { return scale.factor("a loss", like).value(); };
  BOOST_TEST(same_bits(value(3), Tensor::scalar(3.0f)));
  BOOST_TEST(same_bits(value(0.1), Tensor::scalar(0.1f)));
  BOOST_TEST(same_bits(value(Scale::from_temperature(0.5)), Tensor::scalar(2.0f)));
  BOOST_TEST(same_bits(value(Scale::from_log(Tensor::scalar(0.0f))), Tensor::scalar(1.0f)));
  BOOST_TEST(same_bits(Scale(200).factor("a loss", like, 100).value(), Tensor::scalar(100.0f)));
  Parameter trained("scale", Tensor::scalar(4.0f));
  const Scale scale = trained, from_log = Scale::from_log(trained);
  BOOST_TEST(scale.factor("a loss", like).parameter().defined());
  trained.mutable_value() = Tensor::scalar(0.0f);  // another tensor
  BOOST_TEST(same_bits(value(scale), Tensor::scalar(0.0f)));
  BOOST_TEST(same_bits(value(from_log), Tensor::scalar(1.0f)));
  // A value that was taken of a parameter stands for the parameter.
  const Scale of_value = Variable(trained);
  trained.mutable_value() = Tensor::scalar(7.0f);
  BOOST_TEST(same_bits(value(of_value), Tensor::scalar(7.0f)));
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  for (const double bad : {0.0, -1.0, std::numeric_limits<double>::quiet_NaN(), kInfinity, 1e-310}) {
    BOOST_CHECK_EXCEPTION(Scale::from_temperature(bad), ValueError,
                          says({"temperature is", "expected above 0 and finite"}));
  }
  for (const double bad : {1e39, -1e39, std::numeric_limits<double>::quiet_NaN(), kInfinity}) {
    BOOST_CHECK_EXCEPTION(value(bad), ValueError, says({"a loss: scale is", "expected a finite number in float32"}));
    BOOST_CHECK_THROW(Scale(bad).factor("a loss", like, 100), ValueError);
  }
  BOOST_CHECK_EXCEPTION(value(like), ShapeError, says({"a loss: scale is float32 [2, 2]"}));
  BOOST_CHECK_EXCEPTION(value(Parameter()), ValueError, says({"a loss: scale is undefined", "expected a scalar"}));
  BOOST_CHECK_EXCEPTION(value(Variable()), ValueError, says({"a loss: scale is undefined", "expected a scalar"}));
  BOOST_CHECK_EXCEPTION(value(scalar(1)), DTypeError, says({"a loss: scale is float64, expected float32"}));
  BOOST_CHECK_EXCEPTION(value(Scale::from_log(like)), ShapeError, says({"a loss: log_scale is float32 [2, 2]"}));
}

BOOST_AUTO_TEST_CASE(a_bias_is_read_when_the_loss_is_taken) {
  const Tensor a = random_values({4, 3}, 5), b = random_values({4, 3}, 6);
  for (const Tiles& tiles : {Tiles{}, Tiles{TileOptions{}}}) {
    const auto of = [&](const Scalar& bias) {
      return siglip_loss(a, b, {.scale = 2, .bias = bias, .tiles = tiles}).value();
    };
    Parameter bias("bias", scalar(-2));
    const SiglipOptions kept{.scale = 2, .bias = bias, .tiles = tiles},
        of_value{.scale = 2, .bias = Variable(bias), .tiles = tiles};
    BOOST_TEST(same_bits(siglip_loss(a, b, kept).value(), of(-2)));
    bias.mutable_value() = scalar(3);  // another tensor
    BOOST_TEST(same_bits(siglip_loss(a, b, kept).value(), of(3)));
    BOOST_TEST(same_bits(siglip_loss(a, b, of_value).value(), of(scalar(3))));
    BOOST_TEST(!same_bits(of(3), of(-2)));
  }
}

// Neither tiles nor none are meant by empty braces.
template <class Given>
concept GivesTiles = requires(void (&take)(Tiles), Given given) {
  take(given);
};
static_assert(GivesTiles<TileOptions> && GivesTiles<std::nullopt_t>);
template <class Options>
concept TakesEmptyBraces = requires {
  Options{.tiles = {}};
};
template <class Options>
concept TakesTiles = requires {
  Options{.tiles = {{}}};
};
static_assert(!TakesEmptyBraces<InfoNceOptions> && TakesTiles<InfoNceOptions>);
static_assert(!TakesEmptyBraces<MaxsimOptions> && TakesTiles<MaxsimOptions>);

BOOST_AUTO_TEST_CASE(scales_that_are_not_given) {
  const Tensor a = random_values({4, 3}, 5), b = random_values({4, 3}, 6);
  const Tensor labels = Tensor::from<std::int32_t>({1, 2, 1, 2}, {4});
  const auto same = [](const Variable& x, const Variable& y) {
    BOOST_TEST(std::abs(x.value().item() - y.value().item()) <= 1e-14 * std::abs(y.value().item()));
  };
  same(info_nce(a, b), info_nce(a, b, {.scale = scalar(20)}));
  same(info_nce(a, b, {.tiles = TileOptions{}}), info_nce(a, b, {.scale = scalar(20)}));
  same(nt_xent(a, b), nt_xent(a, b, {.scale = Scale::from_temperature(0.5)}));
  same(sup_con(a, labels), sup_con(a, labels, {.scale = Scale::from_temperature(0.1)}));
  same(gist_loss(a, b, a, b), gist_loss(a, b, a, b, {.scale = Scale::from_temperature(0.01)}));
}

BOOST_AUTO_TEST_SUITE_END()
