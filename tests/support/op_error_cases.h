#pragma once

#include <boost/test/unit_test.hpp>

#include <functional>
#include <initializer_list>
#include <string>
#include <typeinfo>
#include <utility>
#include <vector>

#include "tapecache/autograd/tape.h"
#include "tapecache/core/error.h"

namespace tapecache::testing {

/// A tape with what the cases need to call an op with.
struct Given {
  Tape tape;

  Variable f32(const Shape& shape) { return tape.leaf(Tensor::full(shape, 1)); }
  Variable f64(const Shape& shape) { return tape.leaf(Tensor::full(shape, 1, DType::kFloat64)); }
};

inline Tensor whole(const Shape& shape, double value = 0, DType dtype = DType::kInt64) {
  return Tensor::full(shape, value, dtype);
}

inline Tensor all_true(const Shape& shape) { return Tensor::full(shape, 1, DType::kBool); }

struct ErrorCase {
  std::string name;
  std::function<void(Given&)> call;
  std::function<bool(const Error&)> is_expected_type;
  std::vector<std::string> words;  // that the message must hold
};

template <class E>
ErrorCase error(std::string name, std::function<void(Given&)> call, std::vector<std::string> words) {
  const auto is_expected_type = [](const Error& thrown) {
    const Error* e = &thrown;
    return dynamic_cast<const E*>(e) != nullptr;
  };
  return {std::move(name), std::move(call), is_expected_type, std::move(words)};
}

inline void check(const ErrorCase& c) {
  Given given;
  const Recording recording(given.tape);
  try {
    c.call(given);
    BOOST_ERROR("nothing was thrown");
  } catch (const Error& e) {
    BOOST_CHECK_MESSAGE(c.is_expected_type(e), "thrown: " << typeid(e).name() << ": " << e.what());
    for (const std::string& word : c.words) {
      BOOST_CHECK_MESSAGE(std::string(e.what()).find(word) != std::string::npos,
                          "'" << word << "' is not in: " << e.what());
    }
  }
  BOOST_CHECK(given.tape.nodes().empty());
}

/// Makes each case a test of its own.
struct ErrorTests {
  ErrorTests(std::initializer_list<std::vector<ErrorCase>> families, const char* file) {
    for (const std::vector<ErrorCase>& family : families) {
      for (const ErrorCase& c : family) {
        boost::unit_test::framework::master_test_suite().add(
            boost::unit_test::make_test_case([c] { check(c); }, c.name, file, 1));
      }
    }
  }
};

}  // namespace tapecache::testing
