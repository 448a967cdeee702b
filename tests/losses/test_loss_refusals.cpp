#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "checks.h"
#include "loss_table.h"
#include "tapecache/losses/losses.h"
#include "tapecache/ops/layout.h"

// What losses refuse, and at which bounds of their options.

using namespace tapecache;
using namespace tapecache::losses;
using namespace tapecache::testing;
using tapecache::ops::EqualTargets;

BOOST_AUTO_TEST_SUITE(refusals_of_losses)

BOOST_AUTO_TEST_CASE(ids_that_do_not_fit) {
  const Tensor a = random_values({4, 3}, 5), b = random_values({8, 3}, 6), tokens = random_values({4, 2, 3}, 7);
  const Tensor four = Tensor::zeros({4}, DType::kInt64), five = Tensor::zeros({5}, DType::kInt64),
               numbers = Tensor::zeros({4});
  const auto of = [](const Tensor& targets, const Tensor& queries = {}) {
    return EqualTargets{.target_ids = targets, .query_ids = queries};
  };
  const auto fails = [](const auto& f, std::vector<std::string> words) {
    BOOST_CHECK_EXCEPTION(f(), ShapeError, says(std::move(words)));
  };
  const auto are_no_ids = [](const auto& f, std::vector<std::string> words) {
    BOOST_CHECK_EXCEPTION(f(), DTypeError, says(std::move(words)));
  };
  for (const Tiles& tiles : {Tiles{}, Tiles{ops::TileOptions{}}}) {
    const auto info = [&](const Tensor& targets, const EqualTargets& e) {
      return info_nce(a, targets, {.equal_targets = e, .tiles = tiles});
    };
    const auto clip = [&](const EqualTargets& e) {
      return clip_loss(a, a, {.scale = 1, .equal_targets = e, .tiles = tiles});
    };
    const auto siglip = [&](const EqualTargets& e) {
      return siglip_loss(a, a, {.scale = 1, .bias = scalar(1), .equal_targets = e, .tiles = tiles});
    };
    const auto maxsim = [&](const EqualTargets& e) {
      return maxsim_loss(tokens, {}, tokens, {}, {.equal_targets = e, .tiles = tiles});
    };
    const auto named = [](const std::string& loss, const std::string& what) { return loss + ": " + what; };
    fails([&] { info(b, of(four)); }, {named("info_nce", "target_ids"), "[4]", "expected [8]"});
    fails([&] { info(a, of({}, five)); }, {named("info_nce", "query_ids"), "[5]", "[4]"});
    fails([&] { info(a, of(four.reshape({4, 1}))); }, {"target_ids", "[4, 1]"});
    are_no_ids([&] { clip(of(numbers)); }, {named("clip_loss", "target_ids"), "float32"});
    are_no_ids([&] { siglip(of({}, numbers)); }, {named("siglip_loss", "query_ids"), "float32"});
    fails([&] { maxsim(of(five)); }, {named("maxsim_loss", "target_ids"), "[5]"});
    for (const EqualTargets& equal :
         {EqualTargets{.target_ids = four, .equal_rows = true}, {.query_ids = four, .equal_rows = true}}) {
      BOOST_CHECK_EXCEPTION(info(a, equal), ValueError, says({named("info_nce", "equal_rows beside")}));
      BOOST_CHECK_EXCEPTION(clip(equal), ValueError, says({named("clip_loss", "equal_rows beside")}));
    }
  }
  fails([&] { nt_xent(a, a, {.equal_targets = of(five)}); }, {"nt_xent: target_ids", "[5]"});
  fails([&] { gist_loss(a, b, a, b, {.equal_targets = of(four)}); }, {"gist_loss: target_ids", "[8]"});
}

BOOST_AUTO_TEST_CASE(limits_of_the_options) {
  const Tensor a = random_values({4, 3}, 5), b = random_values({4, 3}, 6), one = a.slice(0, 1);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  // One candidate alone is no choice.
  BOOST_TEST(std::abs(info_nce(one, one, {.scale = 3, .label_smoothing = 0.1, .hardness = 2}).value().item()) <= 1e-15);
  for (const double bad : {-0.1, 1.0, nan}) {
    BOOST_CHECK_EXCEPTION(info_nce(a, b, {.label_smoothing = bad}), ValueError, says({"info_nce: label_smoothing"}));
    BOOST_CHECK_EXCEPTION(clip_loss(a, b, {.scale = 1, .label_smoothing = bad}), ValueError,
                          says({"clip_loss: label_smoothing"}));
  }
  for (const double bad : {-0.1, nan, std::numeric_limits<double>::infinity()}) {
    BOOST_CHECK_EXCEPTION(info_nce(a, b, {.hardness = bad}), ValueError, says({"info_nce: hardness"}));
  }
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  for (const double bad : {nan, kInfinity, -kInfinity}) {
    BOOST_CHECK_EXCEPTION(gist_loss(a, b, a, b, {.margin = bad}), ValueError, says({"gist_loss: margin is"}));
    const auto plain = [](std::span<const Variable> r) { return info_nce(r[0], r[1]); };
    BOOST_CHECK_EXCEPTION(matryoshka(plain, std::vector<Variable>{a, b}, {.widths = {2, 3}, .weights = {1, bad}}),
                          ValueError, says({"matryoshka: weight 1 is"}));
  }
  const auto neither = static_cast<SharedCandidates>(7);
  const auto refused = [](const char* loss) {
    return says({loss, "candidates is 7, expected kAutomatic, kGathered or kRing"});
  };
  BOOST_CHECK_EXCEPTION(info_nce(a, b, {.candidates = neither}), ValueError, refused("info_nce: "));
  BOOST_CHECK_EXCEPTION(clip_loss(a, b, {.scale = 1, .candidates = neither}), ValueError, refused("clip_loss: "));
  BOOST_CHECK_EXCEPTION(sup_con(a, Tensor::zeros({a.size(0)}, DType::kInt64), {.candidates = neither}), ValueError,
                        refused("sup_con: "));
  const Variable tokens = ops::reshape(a, {a.size(0), 1, a.size(1)});
  BOOST_CHECK_EXCEPTION(maxsim_loss(tokens, {}, tokens, {}, {.candidates = neither}), ValueError,
                        refused("maxsim_loss: "));
  BOOST_CHECK_EXCEPTION(siglip_loss(a, b, {.scale = 1, .bias = 0, .candidates = neither}), ValueError,
                        refused("siglip_loss: "));
  BOOST_CHECK_EXCEPTION(nt_xent(a, b, {.candidates = neither}), ValueError, refused("nt_xent: "));
  const Tensor single = a.to(DType::kFloat32);
  BOOST_CHECK_EXCEPTION(info_nce(single, single, {.hardness = 1e39}), ValueError,
                        says({"info_nce: hardness is 1e+39, expected a finite number in float32"}));
  // A guide that finds everything nearer leaves the positive alone.
  BOOST_TEST(std::abs(gist_loss(a, b, a, b, {.margin = 10}).value().item()) <= 1e-12);
}

BOOST_AUTO_TEST_CASE(tiles_refuse_what_needs_rows_of_logits) {
  std::size_t refusing = 0;
  for (const LossRow& row : loss_rows()) {
    if (!row.refuses_tiles) continue;
    ++refusing;
    const std::vector<Variable> inputs(row.inputs.begin(), row.inputs.end());
    const std::string loss = row.name.substr(0, row.name.find(','));
    BOOST_CHECK_EXCEPTION(row.in_tiles(inputs, {}), ValueError, says({loss + ": ", "beside tiles, expected 0"}));
  }
  BOOST_TEST(refusing > 0);
  const Tensor a = random_values({4, 3}, 5);
  BOOST_CHECK_EXCEPTION(info_nce(a, a, {.label_smoothing = 0.25, .tiles = ops::TileOptions{}}), ValueError,
                        says({"info_nce: label_smoothing is 0.25 beside tiles"}));
  BOOST_CHECK_EXCEPTION(clip_loss(a, a, {.scale = 1, .hardness = 0.5, .tiles = ops::TileOptions{}}), ValueError,
                        says({"clip_loss: hardness is 0.5 beside tiles"}));
}

BOOST_AUTO_TEST_CASE(inputs_that_do_not_fit_each_other_are_refused_by_name) {
  for (const LossRow& row : loss_rows()) {
    const std::string loss = row.name.substr(0, row.name.find(','));
    const auto fails = [&](std::size_t i, const Variable& bad) {
      std::vector<Variable> inputs(row.inputs.begin(), row.inputs.end());
      inputs[i] = bad;
      const auto named = [&](const Error& e) {
        return std::string(e.what()).starts_with(loss + ": ") || loss == "matryoshka";  // which is about a loss within
      };
      BOOST_CHECK_EXCEPTION(row.loss(inputs), Error, named);
    };
    BOOST_TEST_CONTEXT(row.name) {
      for (std::size_t i = 0; i < row.inputs.size(); ++i) {
        fails(i, {});
        if (i >= row.representations) {
          fails(i, Tensor::zeros({2}, DType::kFloat64));
          continue;
        }
        const Shape& shape = row.inputs[i].shape();
        std::vector<std::int64_t> longer, wider;
        for (int axis = 0; axis < shape.rank(); ++axis) {
          longer.push_back(shape[axis] + (axis == 0));
          wider.push_back(shape[axis] + (axis + 1 == shape.rank()));
        }
        fails(i, row.inputs[i].reshape({row.inputs[i].numel()}));
        // More queries than targets, or targets that are no multiple; labels for fewer.
        fails(i, random_values(Shape(longer), 1));
        // One alone is of any width, and matryoshka cuts it.
        if (row.representations > 1 && loss != "matryoshka") fails(i, random_values(Shape(wider), 1));
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(what_is_particular_to_a_loss_is_checked) {
  const Tensor a = random_values({4, 3}, 1), labels = Tensor::from<std::int64_t>({1, 2, 1, 2}, {4});
  BOOST_CHECK_THROW(siglip_loss(a, random_values({5, 3}, 2), {.scale = 1, .bias = scalar(0.0)}), ShapeError);
  BOOST_CHECK_THROW(info_nce(a, random_values({4, 3}, 2).to(DType::kFloat32)), DTypeError);
  BOOST_CHECK_EXCEPTION(nt_xent(a, random_values({5, 3}, 2)), ShapeError, says({"nt_xent", "4 a and 5 b"}));
  BOOST_CHECK_EXCEPTION(sup_con(a, labels.slice(0, 3)), ShapeError, says({"sup_con", "[3]", "[4]"}));
  BOOST_CHECK_EXCEPTION(sup_con(a, Tensor::zeros({4})), DTypeError,
                        says({"sup_con: labels are float32, expected int32 or int64"}));
  BOOST_CHECK_EXCEPTION(sup_con(a, {}), ValueError, says({"sup_con: labels are undefined"}));
  Parameter none;
  BOOST_CHECK_EXCEPTION(clamp_log_scale(none), ValueError, says({"clamp_log_scale: log_scale is undefined"}));
  BOOST_CHECK_EXCEPTION(sup_con(a, Tensor::from<std::int64_t>({1, 2, 3, 4}, {4})), ValueError, says({"no two of 4"}));
  BOOST_CHECK_EXCEPTION(gist_loss(a, a, {}, a), ValueError, says({"gist_loss: guide_queries is undefined"}));
  BOOST_CHECK_EXCEPTION(gist_loss(a, a, a, a.to(DType::kFloat32)), DTypeError,
                        says({"gist_loss: guide_queries are float64"}));
  BOOST_CHECK_EXCEPTION(gist_loss(a, a, a.slice(0, 3), a), ShapeError, says({"guide_queries", "[3, 3]"}));
  BOOST_CHECK_EXCEPTION(gist_loss(a, a, a, random_values({4, 2}, 1)), ShapeError, says({"one width"}));
  const auto plain = [](std::span<const Variable> r) { return info_nce(r[0], r[1]); };
  const std::vector<Variable> both{a, a};
  BOOST_CHECK_EXCEPTION(matryoshka({}, both, {.widths = {3}}), ValueError,
                        says({"matryoshka: the loss is an empty function"}));
  const auto rows = [](std::span<const Variable> r) { return r[0]; };
  BOOST_CHECK_EXCEPTION(matryoshka(rows, both, {.widths = {3}}), ShapeError,
                        says({"matryoshka: the loss is float64 [4, 3]"}));
  const auto nothing = [](std::span<const Variable>) { return Variable(); };
  BOOST_CHECK_EXCEPTION(matryoshka(nothing, both, {.widths = {3}}), ValueError,
                        says({"matryoshka: the loss is undefined"}));
  BOOST_CHECK_EXCEPTION(matryoshka(plain, both, {}), ValueError, says({"0 widths"}));
  BOOST_CHECK_EXCEPTION(matryoshka(plain, both, {.widths = {4}}), ValueError, says({"width 4", "[4, 3]"}));
  BOOST_CHECK_EXCEPTION(matryoshka(plain, both, {.widths = {0}}), ValueError, says({"width 0"}));
  BOOST_CHECK_EXCEPTION(matryoshka(plain, both, {.widths = {2}, .weights = {1, 2}}), ValueError, says({"2 weights"}));
  BOOST_TEST(std::abs(matryoshka(plain, both, {.widths = {3}, .normalize = false}).value().item() -
                      plain(both).value().item()) <= 1e-15);
}

/// What is wrong is said in the same words with tiles and without, and names the loss.
BOOST_AUTO_TEST_CASE(tiles_make_no_difference_to_what_is_refused) {
  const auto messages_of = [](const LossRow& row, const std::vector<Variable>& inputs) {
    std::vector<std::string> messages;
    const auto note = [&](const auto& loss) {
      try {
        loss();
        messages.emplace_back("nothing");
      } catch (const Error& e) {
        messages.emplace_back(e.what());
      }
    };
    note([&] { row.loss(inputs); });
    note([&] { row.in_tiles(inputs, {}); });
    note([&] { row.in_tiles(inputs, {2, 3}); });
    return messages;
  };
  std::size_t tried = 0;
  for (const LossRow& row : loss_rows()) {
    if (!row.in_tiles || row.refuses_tiles) continue;
    const std::string loss = row.name.substr(0, row.name.find(','));
    for (std::size_t i = 0; i < row.inputs.size(); ++i) {
      const Tensor& own = row.inputs[i];
      std::vector<Variable> bad{{},
                                own.to(DType::kFloat32),
                                own.to(DType::kFloat16),
                                own.to(DType::kInt64),
                                own.reshape({1, own.numel(), 1, 1})};
      if (own.rank() > 0) {
        const Shape& shape = own.shape();
        bad.push_back(Tensor::zeros(shape.with(0, 0), own.dtype()));
        bad.push_back(Tensor::zeros(shape.with(shape.rank() - 1, 0), own.dtype()));
        bad.push_back(Tensor::zeros(shape.with(0, shape[0] + 1), own.dtype()));
        bad.push_back(Tensor::zeros(shape.with(shape.rank() - 1, 1), own.dtype()));
      }
      for (const Variable& given : bad) {
        std::vector<Variable> inputs(row.inputs.begin(), row.inputs.end());
        inputs[i] = given;
        BOOST_TEST_CONTEXT(row.name << ", input " << i << ": " << describe(given.value())) {
          const std::vector<std::string> messages = messages_of(row, inputs);
          BOOST_TEST(messages[0].starts_with(loss + ": "), messages[0]);
          BOOST_TEST(messages[1] == messages[0]);
          BOOST_TEST(messages[2] == messages[0]);
          ++tried;
        }
      }
    }
    // Both of no width, which is no mismatch.
    std::vector<Variable> inputs(row.inputs.begin(), row.inputs.end());
    for (std::size_t i = 0; i < row.representations; ++i) {
      const Shape& shape = inputs[i].shape();
      inputs[i] = Tensor::zeros(shape.with(shape.rank() - 1, 0), DType::kFloat64);
    }
    const std::vector<std::string> messages = messages_of(row, inputs);
    BOOST_TEST(messages[0].starts_with(loss + ": "), messages[0]);
    BOOST_TEST(messages[1] == messages[0]);
  }
  BOOST_TEST(tried > 0u);
}

BOOST_AUTO_TEST_CASE(late_interaction_is_checked) {
  const Tensor q = random_values({2, 3, 4}, 1), d = random_values({4, 5, 4}, 2);
  Tensor mask = Tensor::full({4, 5}, 1, DType::kBool);
  for (const bool tiled : {false, true}) {
    const auto loss = [&](const Variable& a, const Tensor& query_mask, const Variable& b, const Tensor& document_mask,
                          const Tensor& scale) {
      return maxsim_loss(a, query_mask, b, document_mask,
                         {.scale = scale, .tiles = tiled ? Tiles{ops::TileOptions{}} : Tiles{}});
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
  BOOST_CHECK_EXCEPTION(maxsim_loss(q, {}, d, {}, {.tiles = {{0, 1}}}), ValueError,
                        says({"maxsim_loss: tiles of 0 rows"}));
}

BOOST_AUTO_TEST_SUITE_END()
