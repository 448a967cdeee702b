#include <boost/test/unit_test.hpp>

#include <string>
#include <typeinfo>
#include <vector>

#include "op_table.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/core/error.h"

// Each op of the table, with one of its floating inputs replaced by what it may not take.

using namespace tapecache;
using namespace tapecache::testing;

namespace {

/// What the op threw, in its own name; empty where it threw nothing.
template <class E>
std::string refusal(const OpRow& row, std::size_t at, const Variable& bad) {
  Tape tape;
  std::vector<Variable> inputs;
  for (const Tensor& input : make_inputs(row.inputs, DType::kFloat32)) {
    inputs.push_back(is_floating(input.dtype()) ? tape.leaf(input) : Variable(input));
  }
  inputs[at] = bad;
  const Recording recording(tape);
  try {
    row.op(inputs);
    return {};
  } catch (const Error& e) {
    const std::string message = e.what();
    BOOST_CHECK(tape.nodes().empty());
    BOOST_CHECK_MESSAGE(dynamic_cast<const E*>(&e), typeid(e).name() << ": " << message);
    BOOST_CHECK_MESSAGE(row.name.starts_with(message.substr(0, message.find(':'))), "not in its name: " << message);
    return message;
  }
}

template <class Check>
void for_each_floating_input(const Check& check) {
  for (const OpRow& row : op_rows()) {
    for (std::size_t i = 0; i < row.inputs.size(); ++i) {
      if (!is_floating(row.inputs[i].dtype)) continue;
      BOOST_TEST_CONTEXT(row.name << ", input " << i) { check(row, i, row.inputs[i].shape); }
    }
  }
}

}  // namespace

BOOST_AUTO_TEST_SUITE(op_refusals)

BOOST_AUTO_TEST_CASE(integers) {
  for_each_floating_input([](const OpRow& row, std::size_t i, const Shape& shape) {
    BOOST_TEST(refusal<DTypeError>(row, i, Tensor::zeros(shape, DType::kInt64)).find("int64") != std::string::npos);
  });
}

BOOST_AUTO_TEST_CASE(what_is_undefined) {
  for_each_floating_input([](const OpRow& row, std::size_t i, const Shape&) {
    const std::string message = refusal<Error>(row, i, {});
    BOOST_TEST((message.empty() ? i > 0 : message.find("undefined") != std::string::npos),
               message);  // some may be left out
  });
}

BOOST_AUTO_TEST_CASE(a_scalar_in_the_place_of_an_array) {
  for_each_floating_input([](const OpRow& row, std::size_t i, const Shape&) {
    refusal<ShapeError>(row, i, Tensor::zeros({}));  // or it is taken, as by what is element-wise
  });
}

BOOST_AUTO_TEST_CASE(what_is_of_16_bits) {
  for_each_floating_input([](const OpRow& row, std::size_t i, const Shape& shape) {
    const std::string message = refusal<DTypeError>(row, i, Tensor::zeros(shape, DType::kBFloat16));
    const bool taken = row.name.find("linear") != std::string::npos || row.name.starts_with("attention") ||
                       row.name.starts_with("rope") || row.name.starts_with("gated");
    BOOST_TEST((message.empty() ? taken : message.find("bfloat16") != std::string::npos), message);
  });
}

BOOST_AUTO_TEST_SUITE_END()
