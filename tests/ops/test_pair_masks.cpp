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

// Constants over pairs of rows, to the last bit, on the device under test.

using namespace tapecache;
using namespace tapecache::testing;

namespace {

const CheckText kNone{"nothing is positive"};

/// What positive_pairs is by its definition.
Tensor naive_pairs(const std::vector<std::int64_t>& labels, DType dtype) {
  const auto n = static_cast<std::int64_t>(labels.size());
  const auto others = [&](std::size_t i) { return std::count(labels.begin(), labels.end(), labels[i]) - 1; };
  std::int64_t rows = 0;
  for (std::size_t i = 0; i < labels.size(); ++i) rows += others(i) > 0;
  std::vector<double> pairs;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    for (std::size_t j = 0; j < labels.size(); ++j) {
      pairs.push_back(i != j && labels[i] == labels[j] ? 1 / static_cast<double>(rows) / static_cast<double>(others(i))
                                                       : 0);
    }
  }
  return Tensor::from(pairs, {n, n}).to(dtype);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(pair_masks)

BOOST_AUTO_TEST_CASE(a_diagonal_may_be_steep, *on_device) {
  const Tensor plain = Tensor::from({-2.0, 0.0, 0.0, 0.0, -2.0, 0.0}, {2, 3}),
               steep = Tensor::from({7.0, 0.0, 0.0, 0.0, 0.0, 7.0, 0.0, 0.0}, {2, 4});
  const Tensor steeper = Tensor::from({7.0, 0.0, 0.0, 0.0, 0.0, 0.0, 7.0, 0.0}, {2, 4});
  for (const DType dtype : {DType::kFloat64, DType::kFloat32}) {
    BOOST_TEST(same_bits(ops::diagonal(2, 3, 1, -2, dtype, kDevice), plain.to(dtype)));
    BOOST_TEST(same_bits(ops::diagonal(2, 4, 1, 7, dtype, kDevice), steep.to(dtype)));
    BOOST_TEST(same_bits(ops::diagonal(2, 4, 2, 7, dtype, kDevice), steeper.to(dtype)));
    BOOST_TEST(ops::diagonal(0, 4, 2, 7, dtype, kDevice).numel() == 0);
  }
  BOOST_CHECK_EXCEPTION(ops::diagonal(3, 4, 2, 1, DType::kFloat32, Device::cpu()), ShapeError,
                        says({"diagonal: 3 by 4", "2 · row"}));
  BOOST_CHECK_EXCEPTION(ops::diagonal(3, 4, -1, 1, DType::kFloat32, Device::cpu()), ShapeError, says({"-1 · row"}));
}

BOOST_AUTO_TEST_CASE(positives_are_the_others_of_a_class, *on_device) {
  std::vector<std::int64_t> many;
  for (std::int64_t i = 0; i < 700; ++i) many.push_back(i * i % 97 - 40 + (i % 50 == 0 ? 1000 * i : 0));
  const std::int64_t largest = std::numeric_limits<std::int64_t>::max();
  const std::vector<std::vector<std::int64_t>> cases{
      {4, -1, 4, 9, -1, 4, 7}, {2, 2}, {5, 5, 5}, {largest, -largest, largest, 0, -largest}, many};
  for (const DType dtype : {DType::kFloat64, DType::kFloat32}) {
    for (const auto& labels : cases) {
      const auto n = static_cast<std::int64_t>(labels.size());
      const Tensor found = ops::positive_pairs(Tensor::from(labels, {n}).to(kDevice), dtype, kNone);
      BOOST_TEST(same_bits(found, naive_pairs(labels, dtype)));
    }
  }
}

BOOST_AUTO_TEST_CASE(without_two_of_a_class_nothing_is_positive, *on_device) {
  for (const std::vector<std::int64_t>& labels : {std::vector<std::int64_t>{1, 2, 3}, {7}}) {
    const Tensor ids = Tensor::from(labels, {static_cast<std::int64_t>(labels.size())}).to(kDevice);
    Tensor found;
    const auto wait = [&] {
      found = ops::positive_pairs(ids, DType::kFloat64, kNone);
      kDevice.synchronize();
    };
    BOOST_CHECK_EXCEPTION(wait(), ValueError, says({"nothing is positive"}));
    BOOST_TEST(found.defined() != kDevice.is_cpu());  // the host throws at once
    if (!found.defined()) continue;
    for (const double weight : doubles(found)) BOOST_TEST(weight == 0);
  }
  BOOST_CHECK_THROW(ops::positive_pairs(Tensor::zeros({3}), DType::kFloat32, kNone), ShapeError);
  BOOST_CHECK_THROW(ops::positive_pairs(Tensor(), DType::kFloat32, kNone), ShapeError);
}

BOOST_AUTO_TEST_CASE(false_negatives_are_nearer_than_the_positive, *on_device) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  constexpr std::int64_t kRows = 37, kStep = 3, kCols = kRows * kStep;
  Tensor similarities = random_values({kRows, kCols}, 1);
  similarities.mutable_data<double>()[5] = nan;
  similarities.mutable_data<double>()[kCols + kStep] = nan;  // a positive, so that nothing is nearer
  for (const std::int64_t j : {0, 1, 8}) {                   // as near is not nearer
    similarities.mutable_data<double>()[2 * kCols + j] = similarities.data<double>()[2 * kCols + 2 * kStep];
  }
  for (const DType dtype : {DType::kFloat64, DType::kFloat32}) {
    for (const auto& [kept, self, margin, relative] : {std::tuple{kStep, false, 0.0, false},
                                                       {std::int64_t{0}, true, 0.0, false},
                                                       {kStep, false, 0.25, false},
                                                       {std::int64_t{0}, true, 0.25, true},
                                                       {std::int64_t{0}, false, -0.5, true}}) {
      const kernels::FalseNegatives rule{kRows, kCols, kCols + kStep, kept, self, margin, relative};
      const Tensor there = similarities.to(kDevice);
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
  BOOST_CHECK_NO_THROW(ops::false_negatives({.rows = 5, .cols = 9, .kept_step = 2},
                                            Tensor::zeros({5, 9}, DType::kFloat64), Tensor::zeros({1}, DType::kFloat64),
                                            -1, DType::kFloat32));
  BOOST_CHECK_EXCEPTION(ops::false_negatives({.rows = 4, .cols = 5, .positive_step = -1}, s, s, -1, DType::kFloat32),
                        ValueError, says({"-1", "at least 0"}));
}

BOOST_AUTO_TEST_CASE(excluded_pairs_have_the_id_of_the_positive_or_of_the_query, *on_device) {
  constexpr std::int64_t kQueries = 37, kStep = 3, kTargets = kQueries * kStep;
  std::vector<std::int64_t> query_ids, target_ids;
  for (std::int64_t i = 0; i < kQueries; ++i) query_ids.push_back(i * i % 19 - 5);
  for (std::int64_t j = 0; j < kTargets; ++j) target_ids.push_back(j * j % 31 - 5);
  const Tensor q = Tensor::from(query_ids, {kQueries}), t = Tensor::from(target_ids, {kTargets});
  const auto expected = [&](bool by_query, bool by_target, std::size_t step) {
    std::vector<double> mask;
    for (std::size_t i = 0; i < kQueries; ++i) {
      for (std::size_t j = 0; j < kQueries * step; ++j) {
        const bool query = by_query && j % step == 0 && query_ids[j / step] == query_ids[i];
        const bool target = by_target && target_ids[j] == target_ids[i * step];
        mask.push_back(j != i * step && (query || target) ? 1 : 0);
      }
    }
    return Tensor::from(mask, {kQueries, kQueries * static_cast<std::int64_t>(step)});
  };
  for (const DType dtype : {DType::kFloat64, DType::kFloat32}) {
    const auto check = [&](const ops::PairIds& ids, std::int64_t targets, const Tensor& mask) {
      BOOST_TEST(same_bits(ops::excluded_pairs(ids, kQueries, targets, dtype), mask.to(dtype)));
    };
    const Tensor there_q = q.to(kDevice), there_t = t.to(kDevice);
    check({there_q, there_t}, kTargets, expected(true, true, kStep));
    check({there_q, {}}, kTargets, expected(true, false, kStep));
    check({{}, there_t}, kTargets, expected(false, true, kStep));
    check({there_q, there_t.slice(0, kQueries)}, kQueries, expected(true, true, 1));
  }
  BOOST_CHECK_THROW(ops::excluded_pairs({}, 3, 3, DType::kFloat32), ShapeError);
  BOOST_CHECK_THROW(ops::excluded_pairs({q, {}}, kQueries - 1, kTargets, DType::kFloat32), ShapeError);
  BOOST_CHECK_THROW(ops::excluded_pairs({q, t}, kQueries, kTargets - 1, DType::kFloat32), ShapeError);
  BOOST_CHECK_THROW(ops::excluded_pairs({q.to(DType::kInt32), {}}, kQueries, kTargets, DType::kFloat32), ShapeError);
}

BOOST_AUTO_TEST_CASE(equal_rows_have_the_number_of_the_first_of_them, *on_device) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  constexpr std::int64_t kRows = 613, kWidth = 37;
  for (const DType dtype : {DType::kFloat64, DType::kFloat32}) {
    Tensor x = random_values({kRows, kWidth}, 1, dtype), few = Tensor::zeros({6, 2}, dtype);
    std::vector<std::int64_t> expected;
    for (std::int64_t i = 0; i < kRows; ++i) {
      const std::int64_t first = i % 3 == 2 ? i * i % 40 : i;  // of which some are repeated themselves
      const std::int64_t from = first < i ? expected[static_cast<std::size_t>(first)] : i;
      expected.push_back(from);
      x.slice(i, i + 1).copy_from(x.slice(from, from + 1));
    }
    BOOST_TEST(ops::equal_row_ids(x.to(kDevice)).to_vector<std::int64_t>() == expected,
               boost::test_tools::per_element());
    // By bits: 0 is not -0, a NaN is itself, and the order of elements counts.
    few.slice(1, 2).fill(-0.0);
    few.slice(2, 4).fill(nan);
    few.slice(4, 6).copy_from(Tensor::from<double>({1, 2, 2, 1}, {2, 2}).to(dtype));
    BOOST_TEST(
        ops::equal_row_ids(few.to(kDevice)).to_vector<std::int64_t>() == (std::vector<std::int64_t>{0, 1, 2, 2, 4, 5}),
        boost::test_tools::per_element());
    const Tensor all = Tensor::full({300, 5}, 1, dtype);
    for (const std::int64_t id : ops::equal_row_ids(all.to(kDevice)).to_vector<std::int64_t>()) BOOST_TEST(id == 0);
    // Tokens that are not valid are no part of a row, but where they are is.
    Tensor tokens = Tensor::full({5, 3, 4}, 1, dtype), mask = Tensor::full({5, 3}, 1, DType::kBool);
    for (const std::int64_t row : {1, 2, 4}) tokens.slice(row, row + 1).reshape({3, 4}).slice(1, 2).fill(2);
    for (const int at : {1, 4, 14}) mask.mutable_data<bool>()[at] = false;
    BOOST_TEST(ops::equal_row_ids(tokens.to(kDevice), mask.to(kDevice)).to_vector<std::int64_t>() ==
                   (std::vector<std::int64_t>{0, 0, 2, 3, 4}),
               boost::test_tools::per_element());
  }
  BOOST_CHECK_THROW(ops::equal_row_ids(Tensor()), ValueError);
  BOOST_CHECK_THROW(ops::equal_row_ids(Tensor::zeros({3}, DType::kFloat32)), ShapeError);
  BOOST_CHECK_THROW(ops::equal_row_ids(Tensor::zeros({3, 2}, DType::kInt64)), DTypeError);
  BOOST_CHECK_THROW(ops::equal_row_ids(Tensor::zeros({3, 2, 2}), Tensor::full({3, 3}, 1, DType::kBool)), ShapeError);
}

BOOST_AUTO_TEST_SUITE_END()
