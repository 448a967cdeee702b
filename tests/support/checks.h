#pragma once

#include <boost/test/unit_test.hpp>

#include <string>
#include <utility>
#include <vector>

#include "compare.h"
#include "tapecache/core/random.h"

BOOST_TEST_DONT_PRINT_LOG_VALUE(tapecache::DType)

namespace tapecache::testing {

inline Tensor vector_of(const std::vector<double>& values) {
  return Tensor::from(values, {static_cast<std::int64_t>(values.size())});
}

/// Uniform in [-1, 1), a function of the seed alone.
inline Tensor random_values(const Shape& shape, std::uint64_t seed, DType dtype = DType::kFloat64) {
  Tensor t = Tensor::empty(shape, DType::kFloat64);
  double* p = t.mutable_data<double>();
  for (std::int64_t i = 0; i < t.numel(); ++i) {
    p[i] =
        2.0 * static_cast<double>(RandomKey::uniform(RandomKey{seed, 77}.draw(0, static_cast<std::uint32_t>(i))[0])) -
        1.0;
  }
  return t.to(dtype);
}

/// Of the same in f32.
inline Tensor single(const Shape& shape, std::uint64_t seed) { return random_values(shape, seed, DType::kFloat32); }

inline void check_equal(const std::vector<double>& found, const std::vector<double>& expected) {
  BOOST_CHECK_EQUAL_COLLECTIONS(found.begin(), found.end(), expected.begin(), expected.end());
}

inline void check_equal(const Tensor& found, const std::vector<double>& expected) {
  BOOST_REQUIRE(found.defined());
  check_equal(doubles(found), expected);
}

/// For BOOST_CHECK_EXCEPTION: whether the message holds all of these words.
inline auto says(std::vector<std::string> words) {
  return [words = std::move(words)](const std::exception& e) {
    bool all = true;
    for (const std::string& word : words) {
      const bool found = std::string(e.what()).find(word) != std::string::npos;
      BOOST_CHECK_MESSAGE(found, "'" << word << "' is not in: " << e.what());
      all = all && found;
    }
    return all;
  };
}

}  // namespace tapecache::testing
