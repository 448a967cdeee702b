#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "checks.h"
#include "devices.h"
#include "tapecache/core/error.h"
#include "tapecache/ops/pair_masks.h"

// Constants over pairs of rows, to the last bit, on every device that there is.

using namespace tapecache;
using namespace tapecache::testing;

namespace {

const CheckText kNone{"nothing is positive"};

/// What positive_pairs is by its definition, pairs and anchors.
std::pair<Tensor, Tensor> naive_pairs(const std::vector<std::int64_t>& labels, DType dtype) {
  const auto n = static_cast<std::int64_t>(labels.size());
  const auto others = [&](std::size_t i) {
    return std::count(labels.begin(), labels.end(), labels[i]) - 1;
  };
  std::int64_t rows = 0;
  for (std::size_t i = 0; i < labels.size(); ++i) rows += others(i) > 0;
  std::vector<double> pairs, anchors;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    anchors.push_back(others(i) > 0 ? 1 / static_cast<double>(rows) : 0);
    for (std::size_t j = 0; j < labels.size(); ++j) {
      pairs.push_back(i != j && labels[i] == labels[j] ? anchors[i] / static_cast<double>(others(i)) : 0);
    }
  }
  return {Tensor::from(pairs, {n, n}).to(dtype), Tensor::from(anchors, {n}).to(dtype)};
}

}  // namespace

BOOST_AUTO_TEST_SUITE(pair_masks)

BOOST_AUTO_TEST_CASE(positives_are_the_others_of_a_class) {
  std::vector<std::int64_t> many;
  for (std::int64_t i = 0; i < 700; ++i) many.push_back(i * i % 97 - 40 + (i % 50 == 0 ? 1000 * i : 0));
  const std::int64_t largest = std::numeric_limits<std::int64_t>::max();
  const std::vector<std::vector<std::int64_t>> cases{
      {4, -1, 4, 9, -1, 4, 7}, {2, 2}, {5, 5, 5}, {largest, -largest, largest, 0, -largest}, many};
  for (const Device device : devices()) {
    for (const DType dtype : {DType::kFloat64, DType::kFloat32}) {
      for (const auto& labels : cases) {
        const auto n = static_cast<std::int64_t>(labels.size());
        const ops::PositivePairs found = ops::positive_pairs(Tensor::from(labels, {n}).to(device), dtype, kNone);
        const auto [pairs, anchors] = naive_pairs(labels, dtype);
        BOOST_TEST(same_bits(found.pairs, pairs));
        BOOST_TEST(same_bits(found.anchors, anchors));
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(without_two_of_a_class_nothing_is_positive) {
  for (const std::vector<std::int64_t>& labels : {std::vector<std::int64_t>{1, 2, 3}, {7}}) {
    const Tensor ids = Tensor::from(labels, {static_cast<std::int64_t>(labels.size())});
    BOOST_CHECK_EXCEPTION(ops::positive_pairs(ids, DType::kFloat32, kNone), ValueError, says({"nothing is positive"}));
    if (cuda_device_count() == 0) continue;
    const ops::PositivePairs found = ops::positive_pairs(ids.to(Device::cuda()), DType::kFloat64, kNone);
    BOOST_CHECK_EXCEPTION(synchronize(Device::cuda()), ValueError, says({"nothing is positive"}));
    for (const double weight : doubles(found.pairs)) BOOST_TEST(weight == 0);
    for (const double weight : doubles(found.anchors)) BOOST_TEST(weight == 0);
  }
  BOOST_CHECK_THROW(ops::positive_pairs(Tensor::zeros({3}), DType::kFloat32, kNone), ShapeError);
  BOOST_CHECK_THROW(ops::positive_pairs(Tensor(), DType::kFloat32, kNone), ShapeError);
}

BOOST_AUTO_TEST_CASE(false_negatives_are_nearer_than_the_positive) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  constexpr std::int64_t kRows = 37, kStep = 3, kCols = kRows * kStep;
  Tensor similarities = random_values({kRows, kCols}, 1);
  similarities.mutable_data<double>()[5] = nan;
  similarities.mutable_data<double>()[kCols + kStep] = nan;  // a positive, so that nothing is nearer
  for (const std::int64_t j : {0, 1, 8}) {                   // as near is not nearer
    similarities.mutable_data<double>()[2 * kCols + j] = similarities.data<double>()[2 * kCols + 2 * kStep];
  }
  for (const Device device : devices()) {
    for (const DType dtype : {DType::kFloat64, DType::kFloat32}) {
      for (const auto& [kept, self, margin, relative] :
           {std::tuple{kStep, false, 0.0, false}, {std::int64_t{0}, true, 0.0, false}, {kStep, false, 0.25, false},
            {std::int64_t{0}, true, 0.25, true}, {std::int64_t{0}, false, -0.5, true}}) {
        const kernels::FalseNegatives rule{kRows, kCols, kCols + kStep, kept, self, margin, relative};
        const Tensor there = similarities.to(device);
        std::vector<double> expected;
        for (std::int64_t i = 0; i < kRows; ++i) {
          const double* row = similarities.data<double>() + i * kCols;
          const double positive = row[i * kStep], limit = positive - margin * (relative ? std::abs(positive) : 1);
          for (std::int64_t j = 0; j < kCols; ++j) {
            const bool left_out = (row[j] > limit && !(kept > 0 && j == i * kStep)) || (self && j == i);
            expected.push_back(left_out ? -1e37 : 0);
          }
        }
        BOOST_TEST(same_bits(ops::false_negatives(rule, there, there, -1e37, dtype),
                             Tensor::from(expected, {kRows, kCols}).to(dtype)));
      }
    }
  }
  const kernels::FalseNegatives rule{4, 5, 6};
  const Tensor s = Tensor::zeros({4, 5}, DType::kFloat64);
  BOOST_CHECK_THROW(ops::false_negatives(rule, s.to(DType::kFloat32), s, -1, DType::kFloat32), ShapeError);
  BOOST_CHECK_THROW(ops::false_negatives(rule, s.reshape({5, 4}), s, -1, DType::kFloat32), ShapeError);
  BOOST_CHECK_THROW(ops::false_negatives(rule, s, s.slice(0, 3), -1, DType::kFloat32), ShapeError);
  const auto refused = [&](const kernels::FalseNegatives& other, std::vector<std::string> words) {
    const Tensor t = Tensor::zeros({other.rows, other.cols}, DType::kFloat64);
    BOOST_CHECK_EXCEPTION(ops::false_negatives(other, t, t, -1, DType::kFloat32), ShapeError, says(std::move(words)));
  };
  refused({.rows = 5, .cols = 4, .self = true}, {"[5, 4]", "1 · row"});
  refused({.rows = 5, .cols = 8, .kept_step = 2}, {"[5, 8]", "2 · row"});
  refused({.rows = 5, .cols = 8, .positive_step = std::numeric_limits<std::int64_t>::max() / 2}, {"positives"});
  BOOST_CHECK_NO_THROW(ops::false_negatives({.rows = 5, .cols = 9, .kept_step = 2}, Tensor::zeros({5, 9}, DType::kFloat64),
                                            Tensor::zeros({1}, DType::kFloat64), -1, DType::kFloat32));
  BOOST_CHECK_EXCEPTION(ops::false_negatives({.rows = 4, .cols = 5, .positive_step = -1}, s, s, -1, DType::kFloat32),
                        ValueError, says({"-1", "at least 0"}));
}

BOOST_AUTO_TEST_SUITE_END()
