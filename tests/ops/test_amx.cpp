#define TAPECACHE_CPU_VARIANT amx_test
#include "tapecache/ops/cpu/product_amx.h"

#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "checks.h"
#include "tapecache/core/error.h"

#if defined(__x86_64__) && defined(__linux__)
#define TAPECACHE_CAN_EMULATE_AMX
#include <cpuid.h>

#include "amx_emulation.h"
#endif

// bf16 products by tiles, whose logic runs here over a model of the instructions, and the instructions themselves.

using namespace tapecache;
using namespace tapecache::testing;
using namespace tapecache::kernels;
using cpu::ModelTiles;
using cpu::Operand;

namespace {

struct Problem {
  std::int64_t m, n, k;
  bool transpose_a = false, transpose_b = false, bias = false, residual = false, accumulate = false;
  std::int64_t slack = 0;  // elements between rows
};

std::ostream& operator<<(std::ostream& out, const Problem& p) {
  return out << p.m << " x " << p.n << " x " << p.k << (p.transpose_a ? ", A transposed" : "")
             << (p.transpose_b ? ", B transposed" : "") << (p.bias ? ", bias" : "") << (p.residual ? ", residual" : "")
             << (p.accumulate ? ", accumulated" : "") << ", slack " << p.slack;
}

template <class T>
std::vector<T> random_vector(std::int64_t count, std::uint64_t seed) {
  const Tensor values = random_values({std::max<std::int64_t>(count, 1)}, seed, DType::kFloat32);
  std::vector<T> result;
  for (std::int64_t i = 0; i < count; ++i) result.push_back(T(values.data<float>()[i]));
  return result;
}

/// A problem's operands, and the result in memory where what lies between the rows must stay as it was.
struct Case {
  static constexpr float kUntouched = 12345;

  explicit Case(const Problem& problem)
      : p(problem),
        a_stride((p.transpose_a ? p.m : p.k) + p.slack),
        b_stride((p.transpose_b ? p.k : p.n) + p.slack),
        c_stride(p.n + p.slack),
        a(random_vector<BFloat16>((p.transpose_a ? p.k : p.m) * a_stride, 1)),
        b(random_vector<BFloat16>((p.transpose_b ? p.n : p.k) * b_stride, 2)),
        bias(random_vector<float>(p.n, 3)),
        before(random_vector<float>(p.m * c_stride, 4)) {}

  Operand<BFloat16> left(std::int64_t row = 0, std::int64_t term = 0) const {
    return {Operand<BFloat16>{a.data(), a_stride, p.transpose_a}.at(row, term), a_stride, p.transpose_a};
  }
  Operand<BFloat16> right(std::int64_t term = 0, std::int64_t col = 0) const {
    return {Operand<BFloat16>{b.data(), b_stride, p.transpose_b}.at(term, col), b_stride, p.transpose_b};
  }

  template <class Tiles>
  std::vector<float> product() const {
    std::vector<float> c(static_cast<std::size_t>(p.m * c_stride), kUntouched);
    for (std::int64_t i = 0; p.accumulate && i < p.m; ++i) {
      std::memcpy(&c[static_cast<std::size_t>(i * c_stride)], &before[static_cast<std::size_t>(i * c_stride)],
                  static_cast<std::size_t>(p.n) * sizeof(float));
    }
    cpu::tile_detail::multiply_by_tiles<Tiles>(p.m, p.n, p.k, left(), right(), c.data(), c_stride, p.accumulate,
                                               p.bias ? bias.data() : nullptr, p.residual ? before.data() : nullptr);
    return c;
  }

  /// Largest difference from the sum in double precision, or infinity where something beside the result was written.
  double error(const std::vector<float>& c) const {
    double worst = 0;
    for (std::int64_t i = 0; i < p.m; ++i) {
      for (std::int64_t j = 0; j < c_stride; ++j) {
        const std::size_t at = static_cast<std::size_t>(i * c_stride + j);
        if (j >= p.n) {
          if (c[at] != kUntouched) return std::numeric_limits<double>::infinity();
          continue;
        }
        double sum =
            (p.accumulate || p.residual ? before[at] : 0.0f) + (p.bias ? bias[static_cast<std::size_t>(j)] : 0.0f);
        for (std::int64_t t = 0; t < p.k; ++t) {
          sum += static_cast<double>(static_cast<float>(*left().at(i, t))) * static_cast<float>(*right().at(t, j));
        }
        const double difference = std::abs(c[at] - sum);
        if (!(difference <= worst)) worst = difference;
      }
    }
    return worst;
  }

  Problem p;
  std::int64_t a_stride, b_stride, c_stride;
  std::vector<BFloat16> a, b;
  std::vector<float> bias, before;
};

bool equal(const std::vector<float>& x, const std::vector<float>& y) {
  return x.size() == y.size() && std::memcmp(x.data(), y.data(), x.size() * sizeof(float)) == 0;
}

std::vector<Problem> problems() {
  std::vector<Problem> all;
  for (const std::int64_t m : {1, 15, 16, 17, 32, 33, 70}) {
    for (const std::int64_t n : {1, 16, 17, 31, 32, 49, 64}) {
      for (const std::int64_t k : {1, 2, 31, 32, 33, 64, 545}) all.push_back({m, n, k});
    }
  }
  for (Problem p : {Problem{33, 49, 77}, {32, 64, 64}, {17, 16, 545}, {3, 1050, 40}}) {
    for (int bits = 0; bits < 32; ++bits) {
      p.transpose_a = bits & 1;
      p.transpose_b = bits & 2;
      p.bias = bits & 4;
      p.residual = bits & 8 && !(bits & 16);
      p.accumulate = bits & 16;
      p.slack = bits % 3;
      all.push_back(p);
    }
  }
  all.push_back({40, 40, 1024, false, false, true, true});  // rows of A that fall into few cache sets
  return all;
}

#if defined(TAPECACHE_CAN_EMULATE_AMX)
bool processor_has_tiles() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 24 & 1);
}

/// Runs over the processor's own instructions; or says that they are emulated, or may not be used.
template <class Run>
void with_instructions(const Run& run) {
  if (amx::usable()) return run();
  if (processor_has_tiles()) {
    BOOST_TEST_MESSAGE("skipped: this processor has AMX, which this process may not use");
    return;
  }
  BOOST_TEST_MESSAGE("this processor has no AMX: its instructions were not run, but their machine code was emulated");
  const AmxEmulation emulation;
  run();
  BOOST_TEST(emulation.instructions() > 0);
  BOOST_TEST(emulation.released());
}
#endif

}  // namespace

BOOST_AUTO_TEST_SUITE(amx_products)

// First, since what the environment says is read once.
BOOST_AUTO_TEST_CASE(the_environment_is_read) {
  const char* before = std::getenv("TAPECACHE_AMX");
  const std::string kept = before ? before : "auto";
  BOOST_REQUIRE(setenv("TAPECACHE_AMX", "abacus", 1) == 0);
  BOOST_CHECK_EXCEPTION(amx::usable(), ValueError, says({"TAPECACHE_AMX is 'abacus'", "expected never or auto"}));
  BOOST_REQUIRE(setenv("TAPECACHE_AMX", kept.c_str(), 1) == 0);
  if (kept == "never") BOOST_TEST(!amx::usable());
}

BOOST_AUTO_TEST_CASE(model_of_the_instruction) {
  const auto dot = [](std::vector<float> left, std::vector<float> right, float before) {
    alignas(64) BFloat16 a[16][32] = {}, b[16][32] = {};
    alignas(64) float c[16][16] = {};
    for (std::size_t t = 0; t < left.size(); ++t) {
      a[3][t] = BFloat16(left[t]);
      b[t / 2][2 * 5 + t % 2] = BFloat16(right[t]);
    }
    c[3][5] = before;
    ModelTiles tiles;
    tiles.load<0>(c, 64);
    tiles.load<1>(a, 64);
    tiles.load<2>(b, 64);
    tiles.add_product<0, 1, 2>();
    tiles.store<0>(c, 64);
    return c[3][5];
  };
  BOOST_TEST(dot({2, 3, 4}, {5, 7, 9}, 1) == 1 + 10 + 21 + 36);
  // First and second terms have sums of their own: 2²⁴ + 1 - 2²⁴ is 0 in one, and 1 in two.
  BOOST_TEST(dot({0x1p24f, 1, -0x1p24f}, {1, 1, 1}, 0) == 1);
  BOOST_TEST(dot({0x1p24f, 0, 1, 0, -0x1p24f}, {1, 1, 1, 1, 1}, 0) == 0);
  // The sums are added to each other before they meet what was there.
  BOOST_TEST(dot({1, 1}, {1, 1}, 0x1p24f) == 0x1p24f + 2);
  // A product is not rounded by itself.
  BOOST_TEST(dot({1, 0, 1 + 0x1p-7f}, {-1, 0, 1 + 0x1p-7f}, 0) == 0x1p-6f + 0x1p-14f);
  // Subnormal factors, sums and results are 0.
  BOOST_TEST(dot({0x1p-127f}, {0x1p100f}, 0) == 0);
  BOOST_TEST(dot({0x1p-100f}, {0x1p-27f}, 0) == 0);
  BOOST_TEST(dot({0}, {0}, 0x1p-127f) == 0);
  BOOST_TEST(std::isnan(dot({std::numeric_limits<float>::infinity()}, {0}, 0)));
}

BOOST_AUTO_TEST_CASE(products) {
  for (const Problem& p : problems()) {
    const Case problem(p);
    const double error = problem.error(problem.product<ModelTiles>());
    BOOST_TEST(error <= 4e-6 * std::sqrt(static_cast<double>(p.k)), p << ": " << error);
  }
}

BOOST_AUTO_TEST_CASE(an_element_knows_its_terms_alone) {
  for (const bool transposed : {false, true}) {
    const Case all({70, 70, 600, transposed, transposed, true, true});
    const std::vector<float> c = all.product<ModelTiles>();
    for (const std::int64_t row : {0, 1, 16, 31, 69}) {
      for (const std::int64_t col : {0, 5, 16, 38, 69}) {
        const std::int64_t at = row * all.c_stride + col;
        float alone = 0;
        cpu::tile_detail::multiply_by_tiles<ModelTiles>(1, 1, 600, all.left(row), all.right(0, col), &alone, 1, false,
                                                        &all.bias[static_cast<std::size_t>(col)],
                                                        &all.before[static_cast<std::size_t>(at)]);
        BOOST_TEST(std::bit_cast<std::uint32_t>(alone) == std::bit_cast<std::uint32_t>(c[static_cast<std::size_t>(at)]),
                   row << ", " << col);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(a_sum_goes_on_where_another_ended) {
  const Case all({33, 17, 1100, true});
  const std::vector<float> whole = all.product<ModelTiles>();
  for (const std::int64_t cut : {32, 96, 544}) {
    std::vector<float> parts(whole.size());
    cpu::tile_detail::multiply_by_tiles<ModelTiles>(33, 17, cut, all.left(), all.right(), parts.data(), 17, false,
                                                    nullptr, nullptr);
    cpu::tile_detail::multiply_by_tiles<ModelTiles>(33, 17, 1100 - cut, all.left(0, cut), all.right(cut), parts.data(),
                                                    17, true, nullptr, nullptr);
    BOOST_TEST(equal(whole, parts), "after " << cut);
  }
}

#if defined(TAPECACHE_CAN_EMULATE_AMX)
BOOST_AUTO_TEST_CASE(instructions_are_as_modelled) {
  with_instructions([] {
    for (const Problem& p : problems()) {
      const Case problem(p);
      BOOST_TEST(equal(problem.product<cpu::AmxTiles>(), problem.product<ModelTiles>()), p);
    }
  });
}

BOOST_AUTO_TEST_CASE(instructions_are_as_modelled_at_the_ends_of_the_range) {
  with_instructions([] {
    Case problem({16, 16, 64});
    for (std::size_t i = 0; i < problem.a.size(); ++i) {
      // Exponents everywhere: subnormal, and large enough to overflow.
      problem.a[i].bits = static_cast<std::uint16_t>(i * 40503u);
      problem.b[i].bits = static_cast<std::uint16_t>(i * 30011u + 7);
    }
    const std::vector<float> found = problem.product<cpu::AmxTiles>(), expected = problem.product<ModelTiles>();
    for (std::size_t i = 0; i < found.size(); ++i) {
      if (std::isnan(expected[i])) BOOST_TEST(std::isnan(found[i]), i);
      else BOOST_TEST(std::bit_cast<std::uint32_t>(found[i]) == std::bit_cast<std::uint32_t>(expected[i]), i);
    }
  });
}
#endif

BOOST_AUTO_TEST_SUITE_END()
