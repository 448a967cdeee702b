#include <array>
#include <cmath>
#include <map>
#include <vector>

#include "checks.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/core/error.h"
#include "tapecache/core/random.h"
#include "tapecache/train/metrics.h"

using namespace tapecache;
using namespace tapecache::testing;
using namespace tapecache::train;

namespace {

Tensor matrix(const std::vector<double>& values, std::int64_t rows, DType dtype = DType::kFloat64) {
  return Tensor::from(values, {rows, static_cast<std::int64_t>(values.size()) / rows}).to(dtype);
}

/// Queries whose scores against the unit vectors are the rows given.
std::map<int, double> recall_of_scores(const std::vector<double>& scores, std::int64_t n, const std::vector<int>& ks) {
  Tensor identity = Tensor::zeros({n, n}, DType::kFloat64);
  for (std::int64_t i = 0; i < n; ++i) identity.mutable_data<double>()[i * n + i] = 1;
  return recall_at_k(matrix(scores, n), identity, ks);
}

void check_recall(const std::map<int, double>& found, const std::map<int, double>& expected) {
  BOOST_TEST(found.size() == expected.size());
  for (const auto& [k, share] : expected) {
    BOOST_REQUIRE(found.contains(k));
    BOOST_TEST(std::abs(found.at(k) - share) <= 1e-15, "recall@" << k << " is " << found.at(k) << ", not " << share);
  }
}

struct Labelled {
  Tensor features, classes;
};

/// `count` samples of three classes: class c lies around point c, `spread` wide; far from 0 and of unequal scales.
Labelled blobs(std::int64_t count, double spread, std::uint64_t seed, DType dtype = DType::kFloat64) {
  constexpr std::array<std::array<double, 2>, 3> kCentres{{{0, 0}, {3, 0}, {0, 3}}};
  const std::vector<double> noise = doubles(random_values({count, 2}, seed));
  std::vector<double> features;
  std::vector<std::int64_t> classes;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto c = static_cast<std::size_t>(i % 3), at = static_cast<std::size_t>(2 * i);
    features.push_back(500 + 100 * (kCentres[c][0] + spread * noise[at]));
    features.push_back(-0.3 + 0.01 * (kCentres[c][1] + spread * noise[at + 1]));
    classes.push_back(i % 3);
  }
  return {matrix(features, count, dtype), Tensor::from(classes, {count})};
}

/// Features without a bearing on their classes, of which 70 % are class 1.
Labelled noise(std::int64_t count, std::uint64_t seed) {
  std::vector<std::int64_t> classes;
  for (std::int64_t i = 0; i < count; ++i) classes.push_back(i % 10 < 7 ? 1 : i % 10 < 9 ? 0 : 2);
  return {random_values({count, 4}, seed), Tensor::from(classes, {count})};
}

}  // namespace

BOOST_AUTO_TEST_SUITE(metrics)

BOOST_AUTO_TEST_CASE(recall_counts_the_targets_above) {
  const std::vector<double> scores{9, 1, 2, 3,   // first
                                   5, 4, 3, 2,   // second
                                   3, 2, 1, 0,   // third
                                   4, 3, 2, 1};  // fourth
  check_recall(recall_of_scores(scores, 4, {1, 2, 3, 4, 100}), {{1, 0.25}, {2, 0.5}, {3, 0.75}, {4, 1}, {100, 1}});
  check_recall(recall_of_scores(scores, 4, {4, 2, 2}), {{2, 0.5}, {4, 1}});
  check_recall(recall_of_scores(scores, 4, {}), {});
  check_recall(recall_of_scores({3}, 1, {1}), {{1, 1}});
  // Negative scores, and a query of zeros.
  check_recall(recall_of_scores({-1, -2, 0, 0}, 2, {1, 2}), {{1, 0.5}, {2, 1}});
}

BOOST_AUTO_TEST_CASE(recall_counts_ties_against_the_query) {
  // Representations that have collapsed to one point retrieve nothing.
  check_recall(recall_of_scores(std::vector<double>(16, 2.0), 4, {1, 2, 3, 4}), {{1, 0}, {2, 0}, {3, 0}, {4, 1}});
  check_recall(recall_of_scores({5, 5, 1, 0, 5, 1, 1, 1, 1}, 3, {1, 2, 3}), {{1, 1.0 / 3}, {2, 2.0 / 3}, {3, 1}});
}

BOOST_AUTO_TEST_CASE(recall_takes_no_nan_for_a_hit) {
  // A query of NaN never hits, not even where k is everything.
  const Tensor targets = matrix({1, 0, 0, 1, 1, 1}, 3);
  check_recall(recall_at_k(matrix({1, 0, kNaN, 0, 2, 2}, 3), targets, std::vector{1, 3}), {{1, 1.0 / 3}, {3, 2.0 / 3}});
  // A target of NaN stands before all others.
  check_recall(recall_at_k(matrix({1, 0, 0, 1, 2, 2}, 3), matrix({1, 0, 0, 1, kNaN, 1}, 3), std::vector{1, 2, 3}),
               {{1, 0}, {2, 2.0 / 3}, {3, 2.0 / 3}});
  check_recall(recall_at_k(Tensor::full({3, 2}, kNaN), Tensor::full({3, 2}, kNaN), std::vector{1, 3}),
               {{1, 0}, {3, 0}});
}

BOOST_AUTO_TEST_CASE(recall_takes_f32_and_stays_off_the_tape) {
  Tape tape;
  const Recording recording(tape);
  const Tensor x = random_values({20, 6}, 1, DType::kFloat32);
  Tensor far = x.clone();  // each its own nearest: lengths are equal
  for (std::int64_t i = 0; i < 20; ++i) {
    double squares = 0;
    for (std::int64_t j = 0; j < 6; ++j) squares += std::pow(static_cast<double>(x.data<float>()[i * 6 + j]), 2);
    for (std::int64_t j = 0; j < 6; ++j) far.mutable_data<float>()[i * 6 + j] /= static_cast<float>(std::sqrt(squares));
  }
  check_recall(recall_at_k(far, far, std::vector{1}), {{1, 1}});
  BOOST_TEST(tape.nodes().empty());
}

BOOST_AUTO_TEST_CASE(recall_arguments) {
  const std::vector<int> one{1};
  const Tensor x = random_values({4, 3}, 1);
  BOOST_CHECK_EXCEPTION(recall_at_k(x, x.slice(0, 3), one), ShapeError, says({"[4, 3]", "[3, 3]"}));
  BOOST_CHECK_THROW(recall_at_k(x, random_values({4, 2}, 1), one), ShapeError);
  BOOST_CHECK_THROW(recall_at_k(x.reshape({12}), x.reshape({12}), one), ShapeError);
  BOOST_CHECK_THROW(recall_at_k(x.slice(0, 0), x.slice(0, 0), one), ShapeError);
  BOOST_CHECK_THROW(recall_at_k(Tensor(), x, one), ShapeError);
  BOOST_CHECK_THROW(recall_at_k(x, Tensor(), one), ShapeError);
  BOOST_CHECK_EXCEPTION(recall_at_k(x, x, std::vector{1, 0}), ValueError, says({"k is 0"}));
  BOOST_CHECK_THROW(recall_at_k(x, x, std::vector{-5}), ValueError);
}

BOOST_AUTO_TEST_CASE(a_linear_probe_separates_what_can_be_separated) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
    const Labelled fitted = blobs(60, 0.9, 1, dtype), held_out = blobs(90, 0.9, 2, dtype);
    BOOST_TEST(linear_probe(fitted.features, fitted.classes, held_out.features, held_out.classes) == 1);
  }
  // It is the fitted samples that say where 0 is: held out here is one sample alone.
  const Labelled three = blobs(60, 0.9, 1), lone = blobs(2, 0.9, 2);
  BOOST_TEST(linear_probe(three.features, three.classes, lone.features.slice(0, 1), lone.classes.slice(0, 1)) == 1);
  BOOST_TEST(linear_probe(three.features, three.classes, lone.features.slice(1, 2), lone.classes.slice(1, 2)) == 1);
  // Blobs that overlap: better than chance, worse than right; and the same number each time, whatever is active.
  const Labelled fitted = blobs(300, 3, 3), held_out = blobs(300, 3, 4);
  const auto probe = [&] { return linear_probe(fitted.features, fitted.classes, held_out.features, held_out.classes); };
  const double accuracy = probe();
  BOOST_TEST(accuracy > 0.5);
  BOOST_TEST(accuracy < 0.98);
  begin_random_step(3, 3);
  Tape tape;
  const Recording recording(tape);
  BOOST_TEST(probe() == accuracy);
  BOOST_TEST(tape.nodes().empty());
  BOOST_TEST((random_state() == RandomState{{3, 3, 0}, 0, 0}));
}

BOOST_AUTO_TEST_CASE(a_linear_probe_learns_nothing_from_noise) {
  const Labelled fitted = noise(1000, 5), held_out = noise(1000, 6);
  const double majority = majority_class_accuracy(fitted.classes, held_out.classes);
  BOOST_TEST(std::abs(majority - 0.7) <= 1e-15);
  const double accuracy = linear_probe(fitted.features, fitted.classes, held_out.features, held_out.classes);
  BOOST_TEST(std::abs(accuracy - majority) <= 0.03, "accuracy " << accuracy);
}

BOOST_AUTO_TEST_CASE(a_linear_probe_takes_odd_data) {
  // A column that never changes among the fitted samples, and held-out classes that were never fitted.
  const Labelled fitted = blobs(30, 0.5, 1), held_out = blobs(30, 0.5, 2);
  const auto widened = [](const Labelled& data, double third) {
    std::vector<double> wide;
    const std::vector<double> x = doubles(data.features);
    for (std::size_t i = 0; i < x.size(); i += 2) wide.insert(wide.end(), {x[i], third, x[i + 1]});
    return matrix(wide, data.features.size(0));
  };
  for (const double constant : {0.0, 0.1, 7.25, 1e9}) {
    for (const double held_out_constant : {constant, 0.5, -1e9}) {
      BOOST_TEST(linear_probe(widened(fitted, constant), fitted.classes, widened(held_out, held_out_constant),
                              held_out.classes) == 1);
    }
  }
  const Tensor unseen = Tensor::full({30}, 5, DType::kInt64);
  BOOST_TEST(linear_probe(fitted.features, fitted.classes, held_out.features, unseen) == 0);
  const Tensor one_class = Tensor::zeros({30}, DType::kInt64);
  BOOST_TEST(linear_probe(fitted.features, one_class, held_out.features, one_class) == 1);
  BOOST_TEST(linear_probe(fitted.features, fitted.classes, held_out.features, held_out.classes, {.steps = 0}) ==
             1.0 / 3);  // all logits equal: the first class
}

BOOST_AUTO_TEST_CASE(linear_probe_arguments) {
  const Labelled good = blobs(30, 0.5, 1);
  const auto probe = [&](const Tensor& features, const Tensor& classes) {
    linear_probe(features, classes, good.features, good.classes);
  };
  const auto held_out = [&](const Tensor& features, const Tensor& classes) {
    linear_probe(good.features, good.classes, features, classes);
  };
  const Tensor short_classes = good.classes.slice(0, 29);
  BOOST_CHECK_EXCEPTION(probe(good.features, short_classes), ShapeError, says({"fitted", "[30, 2]", "[29]"}));
  BOOST_CHECK_EXCEPTION(held_out(good.features, short_classes), ShapeError, says({"held-out", "[30, 2]", "[29]"}));
  BOOST_CHECK_THROW(probe(good.features, good.classes.to(DType::kFloat32)), ShapeError);
  BOOST_CHECK_THROW(probe(good.features.reshape({60}), good.classes), ShapeError);
  BOOST_CHECK_THROW(probe(good.features.slice(0, 0), good.classes.slice(0, 0)), ShapeError);
  BOOST_CHECK_THROW(held_out(good.features.slice(0, 0), good.classes.slice(0, 0)), ShapeError);
  BOOST_CHECK_THROW(probe(Tensor(), good.classes), ShapeError);
  BOOST_CHECK_THROW(probe(good.features, Tensor()), ShapeError);
  BOOST_CHECK_EXCEPTION(held_out(good.features.reshape({30, 2, 1}), good.classes), ShapeError, says({"held-out"}));
  BOOST_CHECK_EXCEPTION(held_out(random_values({30, 3}, 1), good.classes), ShapeError, says({"width 2 and 3"}));
}

BOOST_AUTO_TEST_CASE(a_linear_probe_names_negative_classes) {
  const Labelled good = blobs(30, 0.5, 1);
  for (const std::int64_t label : {-1, -2}) {
    const Tensor all = Tensor::full({30}, static_cast<double>(label), DType::kInt64);
    Tensor one = good.classes.clone();
    one.mutable_data<std::int64_t>()[4] = label;
    for (const Tensor& classes : {all, one}) {
      BOOST_CHECK_EXCEPTION(linear_probe(good.features, classes, good.features, good.classes), ValueError,
                            says({"linear_probe", "fitted", std::to_string(label)}));
      BOOST_CHECK_EXCEPTION(linear_probe(good.features, good.classes, good.features, classes), ValueError,
                            says({"linear_probe", "held-out", std::to_string(label)}));
    }
  }
}

BOOST_AUTO_TEST_CASE(a_linear_probe_takes_no_nan_for_right) {
  const Labelled fitted = blobs(30, 0.5, 1), held_out = blobs(30, 0.5, 2);
  Tensor some = held_out.features.clone();
  for (std::int64_t i = 0; i < 15; ++i) some.mutable_data<double>()[2 * i + i % 2] = kNaN;
  BOOST_TEST(linear_probe(fitted.features, fitted.classes, some, held_out.classes) == 0.5);
  for (const std::int64_t element : {0, 7, 59}) {
    Tensor spoilt = fitted.features.clone();
    spoilt.mutable_data<double>()[element] = kNaN;
    BOOST_TEST(linear_probe(spoilt, fitted.classes, held_out.features, held_out.classes) == 0);
  }
}

BOOST_AUTO_TEST_CASE(the_majority_class) {
  const auto classes = [](const std::vector<std::int64_t>& c) {
    return Tensor::from(c, {static_cast<std::int64_t>(c.size())});
  };
  BOOST_TEST(majority_class_accuracy(classes({2, 0, 2, 1}), classes({2, 2, 0, 1})) == 0.5);
  BOOST_TEST(majority_class_accuracy(classes({2, 0, 2, 1}), classes({0, 1})) == 0);
  BOOST_TEST(majority_class_accuracy(classes({3}), classes({3, 3, 3})) == 1);
  const double tie = majority_class_accuracy(classes({1, 4, 4, 1}), classes({1, 1, 4, 7}));
  BOOST_TEST((tie == 0.5 || tie == 0.25));
  BOOST_CHECK_THROW(majority_class_accuracy(Tensor::zeros({0}, DType::kInt64), classes({1})), ShapeError);
  BOOST_CHECK_THROW(majority_class_accuracy(classes({1}), Tensor::zeros({0}, DType::kInt64)), ShapeError);
  BOOST_CHECK_THROW(majority_class_accuracy(Tensor(), classes({1})), Error);
  BOOST_CHECK_THROW(majority_class_accuracy(Tensor::zeros({3}), classes({1})), Error);
}

BOOST_AUTO_TEST_SUITE_END()
