#include <cmath>
#include <vector>

#include "checks.h"
#include "tapecache/autograd/modes.h"
#include "tapecache/core/parallel_for.h"
#include "tapecache/ops/linear.h"

// Matrix products at the edges of the tiles, panels and blocks that they are computed in.

using namespace tapecache;
using namespace tapecache::testing;

namespace {

Tensor product(const Tensor& a, const Tensor& b, bool transpose_a = false, bool transpose_b = false) {
  return ops::matmul(a, b, {transpose_a, transpose_b}).value();
}

Tensor transposed(const Tensor& x) {
  const std::vector<double> values = doubles(x);
  const std::int64_t rows = x.size(0), cols = x.size(1);
  std::vector<double> result(values.size());
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t j = 0; j < cols; ++j) {
      result[static_cast<std::size_t>(j * rows + i)] = values[static_cast<std::size_t>(i * cols + j)];
    }
  }
  return Tensor::from(result, {cols, rows}).to(x.dtype());
}

std::vector<double> naive(const Tensor& a, const Tensor& b) {
  const std::vector<double> left = doubles(a), right = doubles(b);
  const std::int64_t m = a.size(0), k = a.size(1), n = b.size(1);
  std::vector<double> c(static_cast<std::size_t>(m * n));
  for (std::int64_t i = 0; i < m; ++i) {
    for (std::int64_t p = 0; p < k; ++p) {
      for (std::int64_t j = 0; j < n; ++j) {
        c[static_cast<std::size_t>(i * n + j)] +=
            left[static_cast<std::size_t>(i * k + p)] * right[static_cast<std::size_t>(p * n + j)];
      }
    }
  }
  return c;
}

/// Without the rows before `first`.
Tensor last_rows(const Tensor& a, std::int64_t first) { return a.slice(first, a.size(0)).clone(); }

}  // namespace

BOOST_AUTO_TEST_SUITE(products)

BOOST_AUTO_TEST_CASE(sizes_at_the_edges) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
    const double tolerance = dtype == DType::kFloat32 ? 2e-5 : 1e-13;
    for (const std::int64_t m : {1, 5, 14, 15, 29}) {
      for (const std::int64_t n : {1, 8, 17, 33, 515}) {
        // 512 and 1024 elements are rows that fall into one cache set, in f64 and f32.
        for (const std::int64_t k : {1, 19, 256, 257, 384, 385, 512, 1024}) {
          const Tensor a = random_values({m, k}, 1, dtype), b = random_values({k, n}, 2, dtype);
          const std::vector<double> expected = naive(a, b);
          const Tensor at = transposed(a), bt = transposed(b);
          const Tensor plain = product(a, b);
          const std::vector<double> found = doubles(plain);
          double worst = 0;
          for (std::size_t i = 0; i < expected.size(); ++i) {
            const double difference = std::abs(found[i] - expected[i]);
            if (!(difference <= worst)) worst = difference;
          }
          BOOST_TEST(worst <= tolerance * std::sqrt(static_cast<double>(k)), m << " x " << n << " x " << k);
          // However the factors are stored, the same terms are added in the same order.
          BOOST_TEST(same_bits(plain, product(at, b, true, false)), m << " x " << n << " x " << k);
          BOOST_TEST(same_bits(plain, product(a, bt, false, true)), m << " x " << n << " x " << k);
          BOOST_TEST(same_bits(plain, product(at, bt, true, true)), m << " x " << n << " x " << k);
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(a_row_does_not_know_of_the_others) {
  struct Kind {
    DType type, precision;
  };
  // On both sides of a tile, a part, and a block that is packed or rounded.
  constexpr std::int64_t kRows = 1100, kCols = 70;
  const std::vector<std::int64_t> counts{1,  2,  5,  6,  7,  8,  12,  13,  14,  15,  16,  17,  28,  29,  31,  32,
                                         33, 48, 63, 64, 65, 99, 127, 128, 200, 252, 256, 257, 400, 512, 513, 1099};
  const int threads = thread_count();
  for (const Kind kind : {Kind{DType::kFloat32, DType::kFloat32},
                          {DType::kFloat64, DType::kFloat32},
                          {DType::kFloat32, DType::kBFloat16},
                          {DType::kFloat32, DType::kFloat16}}) {
    const Autocast autocast(kind.precision);
    for (const std::int64_t k : {40, 300}) {
      const Tensor a = random_values({kRows, k}, 3, kind.type), b = random_values({k, kCols}, 4, kind.type);
      const Tensor bt = transposed(b), bias = random_values({kCols}, 5, kind.type);
      const Tensor residual = random_values({kRows, kCols}, 6, kind.type);
      const auto products = [&](const Tensor& rows, const Tensor& before) {
        const Tensor across = transposed(rows);
        return std::vector<Tensor>{
            product(rows, b),
            product(across, b, true, false),
            product(rows, bt, false, true),
            product(across, bt, true, true),
            ops::linear(rows, bt, bias, before).value(),
            ops::linear(rows, bt, bias, {}, ops::ResultType::kOperand).value(),
            ops::activated_linear(rows, ops::Activation::kGelu, bt, bias, before).value(),
        };
      };
      set_thread_count(2);
      const std::vector<Tensor> all = products(a, residual);
      for (const std::int64_t count : counts) {
        set_thread_count(count % 3 == 0 ? 4 : count % 3 == 1 ? 1 : 2);
        const std::vector<Tensor> found = products(last_rows(a, kRows - count), last_rows(residual, kRows - count));
        for (std::size_t i = 0; i < all.size(); ++i) {
          BOOST_TEST(same_bits(last_rows(all[i], kRows - count), found[i]),
                     "product " << i << " of " << count << " rows, depth " << k << ", " << name(kind.type) << " under "
                                << name(kind.precision));
        }
      }
    }
  }
  set_thread_count(threads);
}

BOOST_AUTO_TEST_CASE(threads_do_not_show) {
  const int threads = thread_count();
  for (const std::int64_t k : {40, 600}) {
    const Tensor a = random_values({333, k}, 3, DType::kFloat32), b = random_values({k, 70}, 4, DType::kFloat32);
    const Tensor all = product(a, b);
    for (const int count : {1, 2, 5}) {
      set_thread_count(count);
      BOOST_TEST(same_bits(all, product(a, b)), count << " threads");
    }
    set_thread_count(threads);
  }
}

BOOST_AUTO_TEST_CASE(threads_do_not_show_where_they_share_blocks) {
  const int threads = thread_count();
  // Several blocks of columns and of terms, the last ones not full, and enough rows for all threads to work on.
  const std::int64_t m = 301, k = 1700, n = 1100;
  const Tensor a = random_values({m, k}, 3, DType::kFloat32), b = random_values({k, n}, 4, DType::kFloat32);
  const Tensor at = transposed(a), bt = transposed(b);
  const Tensor few = product(a.slice(0, 7).clone(), b);
  set_thread_count(1);
  const Tensor all = product(a, b);
  BOOST_TEST(same_bits(few, all.slice(0, 7).clone()));
  for (const int count : {1, 2, 5}) {
    set_thread_count(count);
    BOOST_TEST(same_bits(all, product(a, b)), count << " threads");
    BOOST_TEST(same_bits(all, product(at, b, true, false)), count << " threads");
    BOOST_TEST(same_bits(all, product(a, bt, false, true)), count << " threads");
    BOOST_TEST(same_bits(all, product(at, bt, true, true)), count << " threads");
  }
  set_thread_count(threads);
}

BOOST_AUTO_TEST_CASE(nan_reaches_its_row_alone) {
  for (const DType precision : {DType::kFloat32, DType::kBFloat16}) {
    const Autocast autocast(precision);
    Tensor a = random_values({17, 31}, 5, DType::kFloat32);
    a.mutable_data<float>()[5 * 31 + 30] = std::nanf("");
    const std::vector<double> c = doubles(product(a, random_values({31, 21}, 6, DType::kFloat32)));
    for (std::size_t i = 0; i < c.size(); ++i) BOOST_TEST(std::isnan(c[i]) == (i / 21 == 5));
  }
}

BOOST_AUTO_TEST_SUITE_END()
