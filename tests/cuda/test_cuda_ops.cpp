#include <algorithm>
#include <optional>
#include <string>

#include "cuda_device.h"
#include "op_checks.h"
#include "tapecache/autograd/gradcheck.h"
#include "tapecache/autograd/modes.h"

// Every row of the op table on a CUDA device, against the same op in f64 on the CPU.

using namespace tapecache;
using namespace tapecache::testing;

namespace {

constexpr double kBFloat16Tolerance = 2e-2, kFloat16Tolerance = 4e-3;

struct PoisonDevice {
  PoisonDevice() {
    if (cuda_device_count() == 0) return;
    std::printf("on %s: %s\n", to_string(kCuda).c_str(), device_name(kCuda).c_str());
    poison.emplace(kCuda);
  }
  std::optional<Poison> poison;
};
BOOST_TEST_GLOBAL_FIXTURE(PoisonDevice);

std::vector<Tensor> device_inputs(std::span<const Input> inputs, DType dtype) {
  std::vector<Tensor> tensors = make_inputs(inputs, dtype);
  for (Tensor& t : tensors) t = t.to(kCuda);
  return tensors;
}

void check_device(const Outcome& outcome) {
  BOOST_CHECK(outcome.output.device() == kCuda);
  for (const Tensor& g : outcome.gradients) BOOST_CHECK(!g.defined() || g.device() == kCuda);
}

void check_gradients(const Outcome& found, const Outcome& expected, double tolerance) {
  for (std::size_t i = 0; i < expected.gradients.size(); ++i) {
    BOOST_REQUIRE(found.gradients[i].defined() == expected.gradients[i].defined());
    if (!expected.gradients[i].defined()) continue;
    check_close(found.gradients[i], expected.gradients[i], tolerance, "gradient " + std::to_string(i));
  }
}

void check_against_cpu(const OpRow& row, std::span<const Input> inputs) {
  const Outcome expected = run(row, make_inputs(inputs, DType::kFloat64));
  const Outcome wide = run(row, device_inputs(inputs, DType::kFloat64));
  check_device(wide);
  check_close(wide.output, expected.output, kFloat64Tolerance, "float64 output");
  check_gradients(wide, expected, kFloat64Tolerance);
  const Outcome narrow = run(row, device_inputs(inputs, DType::kFloat32));
  check_device(narrow);
  check_close(narrow.output, expected.output, row.float32_tolerance, "float32 output");
  if (row.differentiable) check_gradients(narrow, expected, row.float32_gradient_tolerance);
}

void as_on_cpu(const OpRow& row) { check_against_cpu(row, row.inputs); }

void as_on_cpu_large(const OpRow& row) { check_against_cpu(row, row.large); }

void gradient(const OpRow& row) {
  const GradcheckResult result = gradcheck(row.op, device_inputs(row.inputs, DType::kFloat64));
  BOOST_CHECK_MESSAGE(result.passed, result.message);
}

void accumulate(const OpRow& row) {
  for (const DType dtype : {DType::kFloat64, DType::kFloat32}) {
    check_accumulates(row, device_inputs(row.inputs, dtype), dtype == DType::kFloat64 ? kFloat64Tolerance : 1e-5);
  }
}

void poison(const OpRow& row) {
  for (const DType dtype : {DType::kFloat64, DType::kFloat32}) check_poison(row, device_inputs(row.inputs, dtype));
}

void same_again(const OpRow& row) {
  const std::vector<Tensor> inputs = device_inputs(row.large.empty() ? row.inputs : row.large, DType::kFloat32);
  check_same_bits(run(row, inputs), run(row, inputs), "differs from one run to the next");
}

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
      add("as_on_cpu", as_on_cpu);
      if (row.differentiable) add("gradient", gradient);
      add("accumulate", accumulate);
      add("poison", poison);
      add("same_again", same_again);
      if (has_products(row)) {
        add("bfloat16", bfloat16);
        add("float16", float16);
      }
      if (!row.large.empty()) add("as_on_cpu_large", as_on_cpu_large);
      boost::unit_test::framework::master_test_suite().add(suite);
    }
  }
};
const Registration registration;

}  // namespace
