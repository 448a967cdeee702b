#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <optional>
#include <string>
#include <utility>

#include "devices.h"
#include "op_checks.h"
#include "tapecache/autograd/gradcheck.h"
#include "tapecache/autograd/modes.h"
#include "tapecache/core/parallel_for.h"

// Every row of the op table on the device under test, against plain loops and against the same op in f64 on the CPU.

using namespace tapecache;
using namespace tapecache::testing;

namespace {

constexpr double kBFloat16Tolerance = 2e-2, kFloat16Tolerance = 4e-3;

/// Of all tests of the program.
struct PoisonDevice {
  PoisonDevice() {
    if (!kDevice.is_cpu() && Device::cuda_count() == 0) return;
    std::printf("on %s: %s\n", to_string(kDevice).c_str(), kDevice.name().c_str());
    poison.emplace(kDevice);
  }
  std::optional<Poison> poison;
};
BOOST_TEST_GLOBAL_FIXTURE(PoisonDevice);

struct ThreadCount {
  explicit ThreadCount(int count) : previous(thread_count()) { set_thread_count(count); }
  ~ThreadCount() { set_thread_count(previous); }
  int previous;
};

std::vector<Tensor> device_inputs(std::span<const Input> inputs, DType dtype) {
  std::vector<Tensor> tensors = make_inputs(inputs, dtype);
  for (Tensor& t : tensors) t = t.to(kDevice);
  return tensors;
}

void check_forward(const OpRow& row, std::span<const Input> inputs) {
  for (const DType dtype : {DType::kFloat64, DType::kFloat32}) {
    const std::vector<Tensor> tensors = device_inputs(inputs, dtype);
    std::vector<NaiveArray> arrays;
    for (const Tensor& t : tensors) arrays.push_back(to_naive(t));
    const NaiveArray expected = row.reference(arrays);
    const Variable output = row.op(std::vector<Variable>(tensors.begin(), tensors.end()));
    BOOST_CHECK(output.dtype() == dtype && output.device() == kDevice);
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

void check_gradients(const Outcome& found, const Outcome& expected, double tolerance) {
  for (std::size_t i = 0; i < expected.gradients.size(); ++i) {
    BOOST_REQUIRE(found.gradients[i].defined() == expected.gradients[i].defined());
    if (!expected.gradients[i].defined()) continue;
    BOOST_CHECK(found.gradients[i].device() == kDevice);
    check_close(found.gradients[i], expected.gradients[i], tolerance, "gradient " + std::to_string(i));
  }
}

void check_types(const OpRow& row, std::span<const Input> inputs) {
  const Outcome expected = run(row, make_inputs(inputs, DType::kFloat64));
  if (!kDevice.is_cpu()) {
    const Outcome wide = run(row, device_inputs(inputs, DType::kFloat64));
    check_close(wide.output, expected.output, kFloat64Tolerance, "float64 output");
    check_gradients(wide, expected, kFloat64Tolerance);
  }
  const Outcome narrow = run(row, device_inputs(inputs, DType::kFloat32));
  check_close(narrow.output, expected.output, row.float32_tolerance, "float32 output");
  if (row.differentiable) check_gradients(narrow, expected, row.float32_gradient_tolerance);
}

void as_float64_on_the_cpu(const OpRow& row) { check_types(row, row.inputs); }

void as_float64_on_the_cpu_large(const OpRow& row) { check_types(row, row.large); }

/// With operands of products rounded, against f64 on the CPU.
void check_rounded(const OpRow& row, DType low, double tolerance) {
  const Outcome expected = run(row, make_inputs(row.inputs, DType::kFloat64));
  const Autocast autocast(low);
  const Outcome found = run(row, device_inputs(row.inputs, DType::kFloat32));
  check_close(found.output, expected.output, tolerance, "output");
  check_gradients(found, expected, tolerance);
}

void bfloat16(const OpRow& row) { check_rounded(row, DType::kBFloat16, kBFloat16Tolerance); }

void float16(const OpRow& row) { check_rounded(row, DType::kFloat16, kFloat16Tolerance); }

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

void accumulate(const OpRow& row) {
  for (const DType dtype : {DType::kFloat64, DType::kFloat32}) {
    check_accumulates(row, device_inputs(row.inputs, dtype), dtype == DType::kFloat64 ? kFloat64Tolerance : 1e-5);
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
  for (const DType dtype : {DType::kFloat64, DType::kFloat32}) check_poison(row, device_inputs(row.inputs, dtype));
}

void same_again(const OpRow& row) {
  const std::vector<Tensor> inputs = device_inputs(row.large.empty() ? row.inputs : row.large, DType::kFloat32);
  check_same_bits(run(row, inputs), run(row, inputs), "differs from one run to the next");
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

bool has_products(const OpRow& row) {
  return std::ranges::any_of(std::vector<std::string>{"matmul", "linear", "attention", "patch_embedding"},
                             [&](const std::string& word) { return row.name.find(word) != std::string::npos; });
}

struct Registration {
  Registration() {
    for (const OpRow& row : op_rows()) {
      boost::unit_test::test_suite* suite = BOOST_TEST_SUITE(row.name);
      const auto add = [&](const char* aspect, void (*check)(const OpRow&)) {
        auto* test = boost::unit_test::make_test_case([check, &row] { check(row); }, aspect, __FILE__, __LINE__);
        put_on_device(*test);
        suite->add(test);
      };
      add("forward", forward);
      add("as_float64_on_the_cpu", as_float64_on_the_cpu);
      add("accumulate", accumulate);
      add("poison", poison);
      if (has_products(row)) {
        add("bfloat16", bfloat16);
        add("float16", float16);
      }
      // A device's derivatives are compared with the host's, which central differences hold far less closely.
      if (kDevice.is_cpu()) {
        if (row.differentiable) add("gradient", gradient);
        add("threads", threads);
        add("frozen", frozen);
      } else {
        add("same_again", same_again);
      }
      if (!row.large.empty()) {
        if (kDevice.is_cpu()) {
          add("forward_large", forward_large);
          add("gradient_large", gradient_large);
        } else {
          add("as_float64_on_the_cpu_large", as_float64_on_the_cpu_large);
        }
      }
      boost::unit_test::framework::master_test_suite().add(suite);
    }
  }
};
const Registration registration;

}  // namespace
