#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "checks.h"
#include "loss_table.h"
#include "tapecache/autograd/anomaly.h"
#include "tapecache/autograd/gradcheck.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/core/parallel_for.h"
#include "tapecache/gradcache/compare.h"
#include "tapecache/gradcache/losses.h"
#include "tapecache/gradcache/losses_guided.h"
#include "tapecache/gradcache/losses_supervised.h"
#include "tapecache/gradcache/matryoshka.h"
#include "tapecache/gradcache/maxsim.h"
#include "tapecache/gradcache/tiled_losses.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/linear.h"

using namespace tapecache;
using namespace tapecache::gradcache;
using namespace tapecache::testing;

namespace {

Tensor scalar(double value) { return Tensor::scalar(value); }

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

BOOST_AUTO_TEST_SUITE(gradcache_losses)

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

BOOST_AUTO_TEST_CASE(in_cached_steps) {
  for (const LossRow& row : loss_rows()) {
    std::vector<Tower> towers;
    std::vector<Parameter> parameters;
    for (std::size_t i = 0; i < row.representations; ++i) {
      const std::int64_t width = row.inputs[i].size(-1);
      const Parameter w("w" + std::to_string(i), random_values({width, width}, 40 + i));
      parameters.push_back(w);
      towers.emplace_back("tower" + std::to_string(i), row.inputs[i],
                          [w](const Tensor& x) { return ops::tanh(ops::linear(x, w)); });
    }
    for (std::size_t i = row.representations; i < row.inputs.size(); ++i) {
      parameters.emplace_back("loss" + std::to_string(i), row.inputs[i].clone());
    }
    const Loss loss = [&](const Representations& r) {
      std::vector<Variable> inputs(r.begin(), r.end());
      for (std::size_t i = row.representations; i < row.inputs.size(); ++i) inputs.emplace_back(parameters[i]);
      return row.loss(inputs);
    };
    for (const std::int64_t chunk : {1, 3}) {
      const Comparison c = compare(towers, loss, {{chunk}}, parameters);
      BOOST_TEST(c.relative_norm <= 1e-12, row.name << ": " << c.relative_norm);
      BOOST_TEST(c.max_relative() <= 1e-11, row.name << ": " << c.max_relative());
    }
  }
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
         {info_nce(x, x, 20.0, {.equal_targets = equal}), clip_loss(x, x, one, {.equal_targets = equal}),
          info_nce(x, x, 20.0, {.label_smoothing = 0.1, .hardness = 2, .equal_targets = equal}),
          tiled_info_nce(x, x, 20.0, {}, equal), tiled_clip_loss(x, x, one, {}, equal), nt_xent(x, x, 0.5, equal),
          gist_loss(x, x, x, x, {.temperature = 1, .equal_targets = equal}), maxsim_loss(tokens, {}, tokens, {}, one, equal),
          tiled_maxsim_loss(tokens, {}, tokens, {}, one, {}, equal)}) {
      BOOST_TEST(std::abs(loss.value().item()) <= 1e-14);
    }
  }
  BOOST_TEST(std::abs(info_nce(x, x, 20.0).value().item() - std::log(2.0)) <= 1e-14);
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
  const ContrastiveOptions both{.label_smoothing = 0.2, .hardness = 0.5};
  const auto with = [](ContrastiveOptions options, const EqualTargets& equal) {
    options.equal_targets = equal;
    return options;
  };
  const std::vector<Case> cases{
      {"info_nce", [=](Span x, const EqualTargets& e) { return info_nce(x[0], x[1], 3.0, with(both, e)); }, of_texts, {a, b}},
      {"info_nce, hard", [=](Span x, const EqualTargets& e) { return info_nce(x[0], x[1], 3.0, with({}, e)); }, of_targets,
       {a, hard}},
      {"clip_loss", [=](Span x, const EqualTargets& e) { return clip_loss(x[0], x[1], scalar(1), with(both, e)); }, of_pairs,
       {a, b}},
      {"siglip_loss", [](Span x, const EqualTargets& e) { return siglip_loss(x[0], x[1], scalar(1), scalar(-2), e); },
       of_pairs, {a, b}},
      {"tiled_info_nce", [](Span x, const EqualTargets& e) { return tiled_info_nce(x[0], x[1], 3.0, {4, 5}, e); }, of_targets,
       {a, hard}},
      {"tiled_clip_loss", [](Span x, const EqualTargets& e) { return tiled_clip_loss(x[0], x[1], scalar(1), {4, 5}, e); },
       of_pairs, {a, b}},
      {"tiled_siglip_loss",
       [](Span x, const EqualTargets& e) { return tiled_siglip_loss(x[0], x[1], scalar(1), scalar(-2), {4, 5}, e); }, of_pairs,
       {a, b}},
      {"nt_xent", [](Span x, const EqualTargets& e) { return nt_xent(x[0], x[1], 0.5, e); }, of_pairs, {a, b}},
      {"gist_loss",
       [=](Span x, const EqualTargets& e) {
         return gist_loss(x[0], x[1], a, hard, {.temperature = 1, .margin = -2, .equal_targets = e});
       },
       of_targets, {a, hard}},
      {"maxsim_loss", [=](Span x, const EqualTargets& e) { return maxsim_loss(x[0], {}, x[1], mask, scalar(1), e); },
       of_documents, {q, d}},
      {"tiled_maxsim_loss",
       [=](Span x, const EqualTargets& e) { return tiled_maxsim_loss(x[0], {}, x[1], mask, scalar(1), {2, 2}, e); },
       of_documents, {q, d}}};
  for (const Case& c : cases) {
    for (const DType dtype : {DType::kFloat64, DType::kFloat32}) {
      const auto outcome = [&](const EqualTargets& equal) {
        const LossRow row{c.name, c.inputs, [&](Span x) { return c.loss(x, equal); }, {}};
        std::vector<Tensor> all = gradients_of(row, dtype);
        all.push_back(Tensor::scalar(value_of(row, dtype)));
        return all;
      };
      if (dtype == DType::kFloat32 && !c.name.starts_with("info_nce") && !c.name.starts_with("nt_xent")) continue;
      const auto found = outcome({.equal_rows = true}), expected = outcome(c.ids), without = outcome({});
      for (std::size_t i = 0; i < found.size(); ++i) BOOST_TEST(same_bits(found[i], expected[i]), c.name << ", part " << i);
      BOOST_TEST(found.back().item() < without.back().item(), c.name);
    }
  }
}

BOOST_AUTO_TEST_CASE(ids_that_do_not_fit) {
  const Tensor a = random_values({4, 3}, 5), b = random_values({8, 3}, 6), tokens = random_values({4, 2, 3}, 7);
  const Tensor four = Tensor::zeros({4}, DType::kInt64), five = Tensor::zeros({5}, DType::kInt64), numbers = Tensor::zeros({4});
  const auto of = [](const Tensor& targets, const Tensor& queries = {}) {
    return EqualTargets{.target_ids = targets, .query_ids = queries};
  };
  const auto fails = [](const auto& f, std::vector<std::string> words) {
    BOOST_CHECK_EXCEPTION(f(), ShapeError, says(std::move(words)));
  };
  fails([&] { info_nce(a, b, 1.0, {.equal_targets = of(four)}); }, {"info_nce: target_ids", "[4]", "int32 or int64 [8]"});
  fails([&] { info_nce(a, a, 1.0, {.equal_targets = of({}, five)}); }, {"info_nce: query_ids", "[5]", "[4]"});
  fails([&] { info_nce(a, a, 1.0, {.equal_targets = of(four.reshape({4, 1}))}); }, {"target_ids", "[4, 1]"});
  fails([&] { clip_loss(a, a, scalar(1), {.equal_targets = of(numbers)}); }, {"clip_loss: target_ids", "float32"});
  fails([&] { siglip_loss(a, a, scalar(1), scalar(1), of({}, numbers)); }, {"siglip_loss: query_ids", "float32"});
  fails([&] { nt_xent(a, a, 0.5, of(five)); }, {"nt_xent: target_ids", "[5]"});
  fails([&] { gist_loss(a, b, a, b, {.equal_targets = of(four)}); }, {"gist_loss: target_ids", "[8]"});
  fails([&] { maxsim_loss(tokens, {}, tokens, {}, scalar(1), of(five)); }, {"maxsim_loss: target_ids", "[5]"});
  fails([&] { tiled_info_nce(a, b, 1.0, {}, of(four)); }, {"target_ids", "[8]"});
  fails([&] { tiled_clip_loss(a, a, scalar(1), {}, of(numbers)); }, {"target_ids", "float32"});
  fails([&] { tiled_siglip_loss(a, a, scalar(1), scalar(1), {}, of({}, five)); }, {"query_ids", "[5]"});
  fails([&] { tiled_maxsim_loss(tokens, {}, tokens, {}, scalar(1), {}, of(five)); }, {"target_ids", "[5]"});
  for (const EqualTargets& equal :
       {EqualTargets{.target_ids = four, .equal_rows = true}, {.query_ids = four, .equal_rows = true}}) {
    BOOST_CHECK_EXCEPTION(info_nce(a, a, 1.0, {.equal_targets = equal}), ValueError, says({"info_nce: equal_rows beside"}));
    BOOST_CHECK_EXCEPTION(tiled_clip_loss(a, a, scalar(1), {}, equal), ValueError, says({"equal_rows beside"}));
  }
}

BOOST_AUTO_TEST_CASE(small_losses_of_large_logits_keep_their_digits) {
  // Two of a class that are equal, and a third opposite to them.
  const Tensor rows = Tensor::from({1.0f, 0.0f, 1.0f, 0.0f, -1.0f, 0.0f}, {3, 2});
  const Tensor labels = Tensor::from<std::int64_t>({0, 0, 1}, {3});
  for (const float scale : {4.5f, 5.2f, 6.1f, 7.3f}) {
    const double expected = std::log1p(std::exp(-2 * static_cast<double>(scale)));
    BOOST_TEST(std::abs(sup_con(rows, labels, Tensor::scalar(scale)).value().item() - expected) <= 1e-5 * expected, scale);
  }
  // Logits that are all 4096, of which each of 3 candidates has a third.
  const Tensor equal = Tensor::full({3, 1}, 64, DType::kFloat32), one = Tensor::scalar(1.0f);
  for (const bool with_ids : {false, true}) {
    ContrastiveOptions options{.label_smoothing = 0.5};
    if (with_ids) options.equal_targets.target_ids = Tensor::from<std::int64_t>({1, 2, 3}, {3});
    const double loss = info_nce(equal, equal, one, options).value().item();
    BOOST_TEST(std::abs(loss - std::log(3.0)) <= 1e-6, with_ids);
  }
}

BOOST_AUTO_TEST_CASE(clip_scale_is_clamped_at_100) {
  const Tensor a = random_values({4, 3}, 5), b = random_values({4, 3}, 6);
  const double at_limit = clip_loss(a, b, scalar(std::log(100.0))).value().item();
  BOOST_TEST(clip_loss(a, b, scalar(9.0)).value().item() == at_limit);
  Parameter log_scale("log_scale", scalar(9.0));
  clamp_log_scale(log_scale);
  BOOST_TEST(log_scale.value().item() == std::log(100.0));
  Parameter below("log_scale", scalar(1.0));
  clamp_log_scale(below);
  Parameter matrix("scales", Tensor::zeros({2, 2}));
  BOOST_CHECK_EXCEPTION(clamp_log_scale(matrix), ShapeError, says({"clamp_log_scale", "log_scale", "[2, 2]"}));
  BOOST_TEST(below.value().item() == 1.0);
}

BOOST_AUTO_TEST_CASE(plain_numbers_for_temperatures) {
  const Tensor a = random_values({4, 3}, 5), b = random_values({4, 3}, 6);
  const Tensor labels = Tensor::from<std::int32_t>({1, 2, 1, 2}, {4});
  const auto same = [](const Variable& x, const Variable& y) {
    BOOST_TEST(std::abs(x.value().item() - y.value().item()) <= 1e-14 * std::abs(y.value().item()));
  };
  same(info_nce(a, b, 5.0), info_nce(a, b, scalar(5)));
  same(info_nce(a, b), info_nce(a, b, scalar(20)));
  same(tiled_info_nce(a, b, 5.0), info_nce(a, b, scalar(5)));
  same(nt_xent(a, b), nt_xent(a, b, scalar(2)));
  same(sup_con(a, labels), sup_con(a, labels, scalar(10)));
  same(gist_loss(a, b, a, b), gist_loss(a, b, a, b, scalar(100)));
}

BOOST_AUTO_TEST_CASE(limits_of_the_options) {
  const Tensor a = random_values({4, 3}, 5), b = random_values({4, 3}, 6), one = a.slice(0, 1);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  // One candidate alone is no choice.
  BOOST_TEST(std::abs(info_nce(one, one, scalar(3), {.label_smoothing = 0.1, .hardness = 2}).value().item()) <= 1e-15);
  for (const double bad : {-0.1, 1.0, nan}) {
    BOOST_CHECK_EXCEPTION(info_nce(a, b, scalar(1), {.label_smoothing = bad}), ValueError, says({"label_smoothing"}));
    BOOST_CHECK_EXCEPTION(clip_loss(a, b, scalar(1), {.label_smoothing = bad}), ValueError, says({"label_smoothing"}));
  }
  for (const double bad : {-0.1, nan}) {
    BOOST_CHECK_EXCEPTION(info_nce(a, b, scalar(1), {.hardness = bad}), ValueError, says({"hardness"}));
  }
  for (const double bad : {0.0, -1.0, nan}) {
    BOOST_CHECK_EXCEPTION(nt_xent(a, b, bad), ValueError, says({"temperature"}));
    BOOST_CHECK_EXCEPTION(sup_con(a, Tensor::zeros({4}, DType::kInt64), bad), ValueError, says({"temperature"}));
    BOOST_CHECK_EXCEPTION(gist_loss(a, b, a, b, {.temperature = bad}), ValueError, says({"temperature"}));
  }
  BOOST_CHECK_EXCEPTION(gist_loss(a, b, a, b, {.margin = nan}), ValueError, says({"margin"}));
  // A guide that finds everything nearer leaves the positive alone.
  BOOST_TEST(std::abs(gist_loss(a, b, a, b, {.margin = 10}).value().item()) <= 1e-12);
}

BOOST_AUTO_TEST_CASE(shapes_are_checked) {
  const Tensor a = random_values({4, 3}, 1), labels = Tensor::from<std::int64_t>({1, 2, 1, 2}, {4});
  BOOST_CHECK_THROW(clip_loss(a, random_values({3, 3}, 2), scalar(1.0)), ShapeError);
  BOOST_CHECK_THROW(clip_loss(a, random_values({4, 2}, 2), scalar(1.0)), ShapeError);
  BOOST_CHECK_THROW(clip_loss(a, a, a), ShapeError);
  BOOST_CHECK_THROW(siglip_loss(a, random_values({5, 3}, 2), scalar(1.0), scalar(0.0)), ShapeError);
  BOOST_CHECK_THROW(info_nce(a, random_values({6, 3}, 2)), ShapeError);
  BOOST_CHECK_THROW(info_nce(a, Variable()), ShapeError);
  BOOST_CHECK_THROW(info_nce(a, random_values({4, 3}, 2).to(DType::kFloat32)), DTypeError);
  BOOST_CHECK_EXCEPTION(nt_xent(a, random_values({5, 3}, 2)), ShapeError, says({"nt_xent", "4 a and 5 b"}));
  BOOST_CHECK_EXCEPTION(sup_con(a, labels.slice(0, 3)), ShapeError, says({"sup_con", "[3]", "[4]"}));
  BOOST_CHECK_EXCEPTION(sup_con(a, Tensor::zeros({4})), ShapeError, says({"sup_con", "float32"}));
  BOOST_CHECK_EXCEPTION(sup_con(a, Tensor::from<std::int64_t>({1, 2, 3, 4}, {4})), ValueError, says({"no two of 4"}));
  BOOST_CHECK_EXCEPTION(gist_loss(a, a, a.slice(0, 3), a), ShapeError, says({"guide_queries", "[3, 3]"}));
  BOOST_CHECK_EXCEPTION(gist_loss(a, a, a, random_values({4, 2}, 1)), ShapeError, says({"one width"}));
  const auto plain = [](std::span<const Variable> r) { return info_nce(r[0], r[1]); };
  const std::vector<Variable> both{a, a};
  BOOST_CHECK_EXCEPTION(matryoshka(plain, both, {}), ValueError, says({"0 widths"}));
  BOOST_CHECK_EXCEPTION(matryoshka(plain, both, {.widths = {4}}), ValueError, says({"width 4", "[4, 3]"}));
  BOOST_CHECK_EXCEPTION(matryoshka(plain, both, {.widths = {0}}), ValueError, says({"width 0"}));
  BOOST_CHECK_EXCEPTION(matryoshka(plain, both, {.widths = {2}, .weights = {1, 2}}), ValueError, says({"2 weights"}));
  BOOST_TEST(std::abs(matryoshka(plain, both, {.widths = {3}, .normalize = false}).value().item() -
                      plain(both).value().item()) <= 1e-15);
}

BOOST_AUTO_TEST_CASE(late_interaction_is_checked) {
  const Tensor q = random_values({2, 3, 4}, 1), d = random_values({4, 5, 4}, 2);
  Tensor mask = Tensor::full({4, 5}, 1, DType::kBool);
  for (const bool tiled : {false, true}) {
    const auto loss = [&](const Variable& a, const Tensor& query_mask, const Variable& b, const Tensor& document_mask,
                          const Tensor& scale) {
      return tiled ? tiled_maxsim_loss(a, query_mask, b, document_mask, scale)
                   : maxsim_loss(a, query_mask, b, document_mask, scale);
    };
    mask.fill(1);
    const double plain = loss(q, {}, d, {}, scalar(1)).value().item();
    BOOST_TEST(loss(q, Tensor::full({2, 3}, 1, DType::kBool), d, mask, scalar(1)).value().item() == plain);
    mask.slice(2, 3).fill(0);
    BOOST_CHECK_EXCEPTION(loss(q, {}, d, mask, scalar(1)), ValueError, says({"document 2"}));
    BOOST_CHECK_THROW(loss(q, {}, d, mask.slice(0, 3), scalar(1)), ShapeError);
    BOOST_CHECK_THROW(loss(q, {}, random_values({4, 5, 3}, 2), {}, scalar(1)), ShapeError);
    BOOST_CHECK_THROW(loss(q, {}, random_values({3, 5, 4}, 2), {}, scalar(1)), ShapeError);
    BOOST_CHECK_THROW(loss(q.reshape({6, 4}), {}, d, {}, scalar(1)), ShapeError);
    BOOST_CHECK_THROW(loss(q, {}, d, {}, Tensor::zeros({2}, DType::kFloat64)), ShapeError);
    // A NaN is not lost among maxima.
    Tensor broken = d.clone();
    broken.slice(1, 2).reshape({20}).slice(7, 8).fill(std::numeric_limits<double>::quiet_NaN());
    if (tiled) BOOST_TEST(std::isnan(loss(q, {}, broken, {}, scalar(1)).value().item()));
  }
  BOOST_CHECK_THROW(tiled_maxsim_loss(q, {}, d, {}, scalar(1), {0, 1}), ValueError);
}

BOOST_AUTO_TEST_SUITE_END()
