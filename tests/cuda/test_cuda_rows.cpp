#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "checks.h"
#include "cuda_device.h"
#include "op_checks.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/normalize.h"
#include "tapecache/ops/reduce.h"

// Ops over rows on a CUDA device, at widths for which their kernels differ.

using namespace tapecache;
using namespace tapecache::testing;

namespace {

struct RowOp {
  std::string name;
  std::vector<Input> inputs;
  Op op;
};

std::vector<RowOp> row_ops(std::int64_t rows, std::int64_t cols) {
  using Variables = std::span<const Variable>;
  const Input x = floating({rows, cols}, -3, 3), gamma = floating({cols}, 0.5, 1.5), beta = floating({cols});
  return {
      {"softmax", {x}, [](Variables v) { return ops::softmax(v[0]); }},
      {"log_softmax", {x}, [](Variables v) { return ops::log_softmax(v[0]); }},
      {"masked_softmax", {x, mask({rows, cols})}, [](Variables v) { return ops::masked_softmax(v[0], v[1].value()); }},
      {"cross_entropy", {x, indices({rows}, cols)}, [](Variables v) { return ops::cross_entropy(v[0], v[1].value()); }},
      {"layer_norm", {x, gamma, beta}, [](Variables v) { return ops::layer_norm(v[0], v[1], v[2]); }},
      {"layer_norm_of_sum",
       {x, gamma, beta, x},
       [](Variables v) { return ops::layer_norm(v[0], v[1], v[2], 1e-5, v[3]); }},
      {"l2_normalize", {x}, [](Variables v) { return ops::l2_normalize(v[0]); }},
  };
}

std::vector<Tensor> on(Device device, std::vector<Tensor> tensors) {
  for (Tensor& t : tensors) t = t.to(device);
  return tensors;
}

Wanted floating_ones(const std::vector<Tensor>& tensors) {
  Wanted wanted;
  for (const Tensor& t : tensors) wanted.push_back(is_floating(t.dtype()));
  return wanted;
}

/// Equal where finite up to rounding, and the same infinities and NaNs.
void check_alike(const Tensor& found, const Tensor& expected, const std::string& what) {
  const std::vector<double> a = doubles(found), b = doubles(expected);
  BOOST_REQUIRE_EQUAL(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    const bool alike = std::isnan(b[i]) ? std::isnan(a[i]) : a[i] == b[i] || std::abs(a[i] - b[i]) <= 1e-12;
    if (!alike) BOOST_ERROR(what << "[" << i << "] is " << a[i] << ", expected " << b[i]);
  }
}

}  // namespace

BOOST_AUTO_TEST_SUITE(cuda_rows)

BOOST_AUTO_TEST_CASE(every_width, *on_device) {
  for (const std::int64_t cols : {1, 2, 31, 32, 33, 127, 128, 129, 511, 512, 513, 769, 4095, 4096, 4097, 5000}) {
    for (const RowOp& row : row_ops(3, cols)) {
      BOOST_TEST_CONTEXT(row.name << " of " << cols << " columns") {
        const std::vector<Tensor> wide = make_inputs(row.inputs, DType::kFloat64);
        const Wanted wanted = floating_ones(wide);
        const Outcome expected = run(row.op, wide, wanted);
        for (const DType dtype : {DType::kFloat64, DType::kFloat32}) {
          const Outcome found = run(row.op, on(kCuda, make_inputs(row.inputs, dtype)), wanted);
          const bool exact = dtype == DType::kFloat64;
          check_close(found.output, expected.output, exact ? kFloat64Tolerance : 1e-5, "output");
          for (std::size_t i = 0; i < wide.size(); ++i) {
            if (!wanted[i]) continue;
            check_close(found.gradients[i], expected.gradients[i], exact ? kFloat64Tolerance : 1e-4,
                        "gradient " + std::to_string(i));
          }
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(what_is_not_finite_is_as_on_the_cpu, *on_device) {
  for (const std::int64_t cols : {3, 600, 4100}) {
    std::vector<Tensor> rows;
    for (const std::vector<double>& special : std::vector<std::vector<double>>{{0, kNaN, 1},
                                                                               {kNaN, kNaN, kNaN},
                                                                               {0, kInfinity, 1},
                                                                               {0, -kInfinity, 1},
                                                                               {-kInfinity, -kInfinity, -kInfinity},
                                                                               {kInfinity, kNaN, -kInfinity}}) {
      Tensor x = Tensor::empty({1, cols}, DType::kFloat64);
      for (std::int64_t i = 0; i < cols; ++i) {
        x.mutable_data<double>()[i] = special[static_cast<std::size_t>(i < 2 ? i : 2)];
      }
      rows.push_back(std::move(x));
    }
    Tensor allowed = Tensor::full({cols}, 1, DType::kBool);
    allowed.mutable_data<bool>()[1] = false;
    const Tensor target = Tensor::zeros({1}, DType::kInt64);
    for (std::size_t r = 0; r < rows.size(); ++r) {
      for (const RowOp& row : row_ops(1, cols)) {
        std::vector<Tensor> inputs = make_inputs(row.inputs, DType::kFloat64);
        inputs[0] = rows[r];
        if (row.name == "masked_softmax") inputs[1] = allowed;
        if (row.name == "cross_entropy") inputs[1] = target;
        const Wanted wanted = floating_ones(inputs);
        const Outcome expected = run(row.op, inputs, wanted), found = run(row.op, on(kCuda, inputs), wanted);
        const std::string what = row.name + " of row " + std::to_string(r) + " of " + std::to_string(cols);
        check_alike(found.output, expected.output, what);
        for (std::size_t i = 0; i < inputs.size(); ++i) {
          if (wanted[i])
            check_alike(found.gradients[i], expected.gradients[i], what + ", gradient " + std::to_string(i));
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(indices_may_be_on_the_host, *on_device) {
  const Tensor x = random_tensor({4, 3, 5}, DType::kFloat32, 1), rows = x.reshape({12, 5});
  const Tensor index = Tensor::from<std::int32_t>({2, 0, 1, 1}, {4});
  const Tensor logits = rows.slice(0, 4);
  for (const Device device : {Device::cpu(), kCuda}) {
    const Tensor there = index.to(device);
    BOOST_CHECK(same_bits(ops::embedding(rows.to(kCuda), there).value(), ops::embedding(rows, index).value()));
    BOOST_CHECK(same_bits(ops::select_token(x.to(kCuda), there).value(), ops::select_token(x, index).value()));
    check_close(ops::cross_entropy(logits.to(kCuda), there).value(), ops::cross_entropy(logits, index).value(), 1e-6,
                "loss");
  }
  BOOST_CHECK_EXCEPTION(ops::cross_entropy(logits, index.to(kCuda)), DeviceError,
                        says({"cross_entropy", "targets", "cuda:0", "cpu"}));
}

BOOST_AUTO_TEST_CASE(a_mask_on_another_device_is_refused, *on_device) {
  const Tensor x = Tensor::zeros({2, 3}), allowed = Tensor::full({3}, 1, DType::kBool);
  BOOST_CHECK_EXCEPTION(ops::masked_softmax(x.to(kCuda), allowed), DeviceError,
                        says({"masked_softmax", "mask", "cpu", "cuda:0"}));
  BOOST_CHECK_EXCEPTION(ops::masked_softmax(x, allowed.to(kCuda)), DeviceError,
                        says({"masked_softmax", "mask", "cuda:0", "cpu"}));
}

BOOST_AUTO_TEST_SUITE_END()
