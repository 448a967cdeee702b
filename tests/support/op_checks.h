#pragma once

#include <boost/test/unit_test.hpp>

#include <string>
#include <vector>

#include "compare.h"
#include "op_table.h"
#include "tapecache/autograd/tape.h"

/// What the tests of the op table share, on any device.
namespace tapecache::testing {

constexpr double kFloat64Tolerance = 1e-12;

/// While it lives, what an op hands out on a device is NaN until a kernel writes it.
class Poison {
 public:
  explicit Poison(Device device = Device::cpu());
  ~Poison();
  Poison(const Poison&) = delete;
  Poison& operator=(const Poison&) = delete;

 private:
  Device device_;
};

struct Outcome {
  Tensor output;
  std::vector<Tensor> gradients;  // undefined for inputs that are no leaves
};

using Wanted = std::vector<bool>;

Wanted floating_inputs(const OpRow& row);

Tensor cotangent_of(const Variable& output);

/// Forward, and backward with a random cotangent to the wanted inputs.
Outcome run(const Op& op, std::span<const Tensor> inputs, const Wanted& wanted);
Outcome run(const OpRow& row, std::span<const Tensor> inputs);

void check_close(const Tensor& found, const Tensor& expected, double tolerance, const std::string& what);
void check_same_bits(const Outcome& a, const Outcome& b, const std::string& what);

/// That gradients are added to what is there: of an op used twice, of parameters that have one, of an input given
/// twice.
void check_accumulates(const OpRow& row, const std::vector<Tensor>& inputs, double tolerance);

/// That the bits do not depend on what the memory held before. Called under Poison.
void check_poison(const OpRow& row, const std::vector<Tensor>& inputs);

}  // namespace tapecache::testing
