#include <boost/test/unit_test.hpp>

#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "op_checks.h"
#include "tapecache/autograd/gradcheck.h"
#include "tapecache/core/parallel_for.h"

using namespace tapecache;
using namespace tapecache::testing;

namespace {

const Poison poison_all_tests;

struct ThreadCount {
  explicit ThreadCount(int count) : previous(thread_count()) { set_thread_count(count); }
  ~ThreadCount() { set_thread_count(previous); }
  int previous;
};

void check_forward(const OpRow& row, std::span<const Input> inputs) {
  for (const DType dtype : {DType::kFloat64, DType::kFloat32}) {
    const std::vector<Tensor> tensors = make_inputs(inputs, dtype);
    std::vector<NaiveArray> arrays;
    for (const Tensor& t : tensors) arrays.push_back(to_naive(t));
    const NaiveArray expected = row.reference(arrays);
    const Variable output = row.op(std::vector<Variable>(tensors.begin(), tensors.end()));
    BOOST_CHECK(output.dtype() == dtype);
    BOOST_CHECK_MESSAGE(output.shape() == expected.shape,
                        "shape " << to_string(output.shape()) << ", expected " << to_string(expected.shape));
    const double difference = max_difference(doubles(output.value()), expected.values);
    const double tolerance = dtype == DType::kFloat64 ? kFloat64Tolerance : row.float32_tolerance;
    BOOST_CHECK_MESSAGE(difference <= tolerance,
                        name(dtype) << " output differs by " << difference << ", allowed " << tolerance);
  }
}

void forward(const OpRow& row) { check_forward(row, row.inputs); }

void forward_large(const OpRow& row) { check_forward(row, row.large); }

void gradient(const OpRow& row) {
  const GradcheckResult result = gradcheck(row.op, make_inputs(row.inputs, DType::kFloat64));
  BOOST_CHECK_MESSAGE(result.passed, result.message);
}

/// Where a central difference for every element would take too long, one along a random direction finds blocks that
/// were left out or done twice.
void gradient_large(const OpRow& row) {
  constexpr double kStep = 1e-7, kTolerance = 1e-5;
  const std::vector<Tensor> inputs = make_inputs(row.large, DType::kFloat64);
  const Outcome outcome = run(row, inputs);
  const std::vector<double> cotangent = doubles(cotangent_of(outcome.output));
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (!is_floating(inputs[i].dtype())) continue;
    BOOST_REQUIRE(outcome.gradients[i].defined());
    const std::vector<double> gradients = doubles(outcome.gradients[i]);
    std::vector<double> directions = doubles(random_tensor(inputs[i].shape(), DType::kFloat64, 7));
    double analytic = 0, length = 0;
    for (std::size_t k = 0; k < gradients.size(); ++k) {
      directions[k] = directions[k] < 0 ? -1 : 1;
      analytic += gradients[k] * directions[k];
      length += gradients[k] * gradients[k];
    }
    const auto along = [&](double step) {
      std::vector<Variable> moved(inputs.begin(), inputs.end());
      std::vector<double> values = doubles(inputs[i]);
      for (std::size_t k = 0; k < values.size(); ++k) values[k] += step * directions[k];
      moved[i] = Tensor::from(values, inputs[i].shape());
      return doubles(row.op(moved).value());
    };
    const std::vector<double> above = along(kStep), below = along(-kStep);
    double numeric = 0;
    for (std::size_t k = 0; k < above.size(); ++k) numeric += cotangent[k] * (above[k] - below[k]) / (2 * kStep);
    const double difference = std::abs(numeric - analytic) / (std::sqrt(length) + 1e-3);
    BOOST_CHECK_MESSAGE(difference <= kTolerance, "input " << i << ": derivative " << analytic
                                                           << " along a random direction, central difference "
                                                           << numeric << ", gradient of length " << std::sqrt(length));
  }
}

void float32_gradient(const OpRow& row) {
  const Outcome expected = run(row, make_inputs(row.inputs, DType::kFloat64));
  const Outcome found = run(row, make_inputs(row.inputs, DType::kFloat32));
  for (std::size_t i = 0; i < row.inputs.size(); ++i) {
    if (!is_floating(row.inputs[i].dtype)) continue;
    BOOST_REQUIRE(expected.gradients[i].defined());
    check_close(found.gradients[i], expected.gradients[i], row.float32_gradient_tolerance,
                "gradient " + std::to_string(i));
  }
}

void accumulate(const OpRow& row) {
  for (const DType dtype : {DType::kFloat64, DType::kFloat32}) {
    const std::vector<Tensor> inputs = make_inputs(row.inputs, dtype);
    check_accumulates(row, inputs, dtype == DType::kFloat64 ? kFloat64Tolerance : 1e-5);
  }
}

void check_threads(const OpRow& row, const std::vector<Tensor>& inputs) {
  Outcome serial;
  for (const int count : {1, 2, 4}) {
    const ThreadCount threads(count);
    Outcome outcome = run(row, inputs);
    if (count == 1) serial = std::move(outcome);
    else check_same_bits(outcome, serial, "differs with " + std::to_string(count) + " threads");
  }
}

void threads(const OpRow& row) {
  for (const DType dtype : {DType::kFloat64, DType::kFloat32}) check_threads(row, make_inputs(row.inputs, dtype));
  if (!row.large.empty()) check_threads(row, make_inputs(row.large, DType::kFloat32));
}

void poison(const OpRow& row) {
  for (const DType dtype : {DType::kFloat64, DType::kFloat32}) check_poison(row, make_inputs(row.inputs, dtype));
}

void frozen(const OpRow& row) {
  const std::vector<Tensor> inputs = make_inputs(row.inputs, DType::kFloat64);
  const Wanted all = floating_inputs(row);
  const Outcome expected = run(row, inputs);
  for (unsigned subset = 0; subset < (1u << inputs.size()); ++subset) {
    Wanted wanted = all;
    for (std::size_t i = 0; i < inputs.size(); ++i) wanted[i] = all[i] && (subset >> i & 1);
    const Outcome outcome = run(row.op, inputs, wanted);
    BOOST_CHECK(same_bits(outcome.output, expected.output));
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      BOOST_CHECK(outcome.gradients[i].defined() == wanted[i]);
      if (outcome.gradients[i].defined()) {
        check_close(outcome.gradients[i], expected.gradients[i], kFloat64Tolerance, "gradient " + std::to_string(i));
      }
    }
  }
}

struct Registration {
  Registration() {
    for (const OpRow& row : op_rows()) {
      boost::unit_test::test_suite* suite = BOOST_TEST_SUITE(row.name);
      const auto add = [&](const char* aspect, void (*check)(const OpRow&)) {
        suite->add(boost::unit_test::make_test_case([check, &row] { check(row); }, aspect, __FILE__, __LINE__));
      };
      add("forward", forward);
      if (row.differentiable) add("gradient", gradient);
      if (row.differentiable) add("float32_gradient", float32_gradient);
      add("accumulate", accumulate);
      add("threads", threads);
      add("poison", poison);
      add("frozen", frozen);
      if (!row.large.empty()) {
        add("forward_large", forward_large);
        add("gradient_large", gradient_large);
      }
      boost::unit_test::framework::master_test_suite().add(suite);
    }
  }
};
const Registration registration;

}  // namespace
