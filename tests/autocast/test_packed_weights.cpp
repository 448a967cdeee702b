#include <boost/test/unit_test.hpp>

#include <array>
#include <cstddef>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "checks.h"
#include "small_model.h"
#include "tapecache/autograd/operand_cache.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/core/allocator.h"
#include "tapecache/core/device.h"
#include "tapecache/core/parallel_for.h"
#include "tapecache/ops/linear.h"

// Weights that are packed once for many products give these the bits that they have otherwise.

using namespace tapecache;
using namespace tapecache::testing;

namespace {

constexpr std::size_t kRoom = std::size_t{1} << 24;

/// Two layers, of which the second is joined with an activation, and one of queries and keys.
struct Layers {
  std::int64_t in, hidden;
  DType dtype;
  Parameter first, bias, second, query, key;

  Layers(std::int64_t in_, std::int64_t hidden_, DType dtype_)
      : in(in_),
        hidden(hidden_),
        dtype(dtype_),
        first("first", random_values({hidden, in}, 1, dtype)),
        bias("bias", random_values({hidden}, 2, dtype)),
        second("second", random_values({in, hidden}, 3, dtype)),
        query("query", random_values({hidden, in}, 4, dtype)),
        key("key", random_values({in, in}, 5, dtype)) {}

  std::vector<Parameter> parameters() const { return {first, bias, second, query, key}; }

  /// The result and all gradients, of x too.
  std::vector<Tensor> step(std::int64_t rows) const {
    Tape tape;
    const Variable x = tape.leaf(random_values({rows, in}, 6, dtype));
    Variable y;
    {
      const Recording recording(tape);
      const Variable z = ops::linear(x, first, bias);
      const Variable h = ops::activated_linear(z, ops::Activation::kGelu, second, {}, x);
      const std::array<Variable, 2> weights{query, key};
      y = ops::multi_linear(h, weights);
    }
    std::vector<Tensor> all{y.value()};
    const Tensor dy = random_values(y.shape(), 7, dtype);
    inject(tape, {&y, 1}, {&dy, 1});
    all.push_back(tape.gradient(x));
    for (Parameter p : parameters()) {
      if (!p.requires_gradient()) continue;
      all.push_back(p.gradient().clone());
      p.clear_gradient();
    }
    return all;
  }
};

void check_same(const std::vector<Tensor>& expected, const std::vector<Tensor>& found, const std::string& what) {
  BOOST_REQUIRE(expected.size() == found.size());
  for (std::size_t i = 0; i < found.size(); ++i) BOOST_TEST(same_bits(expected[i], found[i]), what << ", tensor " << i);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(packed_weights)

BOOST_AUTO_TEST_CASE(products_have_the_same_bits) {
  const int threads = thread_count();
  for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
    // At the edges of panels, of what is packed together and of chains; both ways to cut a product among threads.
    for (const std::int64_t in : {1, 15, 16, 33, 130, 400}) {
      for (const std::int64_t hidden : {7, 64, 97, 520}) {
        const Layers layers(in, hidden, dtype);
        for (const std::int64_t rows : {1, 6, 50, 200, 2049}) {
          if (rows > 200 && in * hidden > 20000) continue;  // more work, and no other path
          set_thread_count(static_cast<int>(1 + rows % 3));
          const std::vector<Tensor> expected = layers.step(rows);
          OperandCache cache(kRoom);
          const auto scope = cache.use();
          const std::string what = fmt::format("{}, {} x {}, {} rows", name(dtype), in, hidden, rows);
          check_same(expected, layers.step(rows), what);
          check_same(expected, layers.step(rows), what + ", again");
          const bool few = rows <= 2048;  // beyond that nothing is gained
          for (const bool transposed : {true, false}) {
            BOOST_TEST(cache.find_packed(layers.first.value(), transposed).defined() == few, what);
            BOOST_TEST(cache.find_packed(layers.second.value(), transposed).defined() == few, what);
            BOOST_TEST(cache.find_packed(layers.key.value(), transposed).defined() == few, what);
          }
        }
      }
    }
  }
  set_thread_count(threads);
}

BOOST_AUTO_TEST_CASE(a_changed_weight_is_packed_anew) {
  Layers layers(40, 70, DType::kFloat32);
  OperandCache cache(kRoom);
  const auto check = [&](const std::string& what) {
    const std::vector<Tensor> expected = layers.step(9);
    const auto scope = cache.use();
    check_same(expected, layers.step(9), what);
  };
  check("as made");
  layers.first.mutable_value().fill(0.25);
  check("written to");
  layers.second.assign(random_values({40, 70}, 11, DType::kFloat32));
  check("replaced");
  layers.query.set_requires_gradient(false);
  check("frozen");
  BOOST_CHECK(cache.clear());
  BOOST_CHECK(!cache.find_packed(layers.key.value(), true).defined());
  check("after all was dropped");
}

BOOST_AUTO_TEST_CASE(weights_of_one_storage_and_a_tied_one_are_told_apart) {
  constexpr std::int64_t kWidth = 48;
  const Tensor both = random_values({2 * kWidth, kWidth}, 1, DType::kFloat32),
               x = random_values({5, kWidth}, 2, DType::kFloat32);
  const Parameter upper("upper", both.slice(0, kWidth)), lower("lower", both.slice(kWidth, 2 * kWidth));
  const auto step = [&] {
    Tape tape;
    const Variable start = tape.leaf(x);
    Variable y;
    {
      const Recording recording(tape);
      y = ops::linear(ops::linear(ops::linear(start, upper), lower), upper);
    }
    const Tensor dy = random_values(y.shape(), 3, DType::kFloat32);
    inject(tape, {&y, 1}, {&dy, 1});
    std::vector<Tensor> all{y.value(), tape.gradient(start)};
    for (Parameter p : {upper, lower}) {
      all.push_back(p.gradient().clone());
      p.clear_gradient();
    }
    return all;
  };
  const std::vector<Tensor> expected = step();
  OperandCache cache(kRoom);
  const auto scope = cache.use();
  check_same(expected, step(), "first");
  check_same(expected, step(), "again");
  BOOST_CHECK(!cache.find_packed(upper.value(), true).shares_storage(cache.find_packed(lower.value(), true)));
}

BOOST_AUTO_TEST_CASE(a_weight_is_not_packed_where_memory_refuses) {
  const Layers layers(40, 70, DType::kFloat32);
  const Tensor x = random_values({9, 40}, 6, DType::kFloat32);
  const auto y = [&] { return ops::linear(x, layers.first, layers.bias).value(); };
  const Tensor expected = y();
  OperandCache cache(kRoom);
  const auto scope = cache.use();
  Allocator& memory = allocator(Device::cpu());
  // Room for the result, and for nothing of the weight's size.
  const MemoryLimit limit(memory.stats().current + expected.bytes() + 4096, Device::cpu());
  BOOST_TEST(same_bits(expected, y()));
  BOOST_CHECK(!cache.clear());
}

BOOST_AUTO_TEST_CASE(nothing_is_packed_without_room_or_parameter) {
  const Layers layers(40, 70, DType::kFloat32);
  const std::vector<Tensor> expected = layers.step(9);
  {
    OperandCache cache;
    const auto scope = cache.use();
    check_same(expected, layers.step(9), "no room");
    BOOST_CHECK(!cache.clear());
  }
  {
    OperandCache cache(20000);  // room for one factor of three
    const auto scope = cache.use();
    check_same(expected, layers.step(9), "room for one");
    BOOST_CHECK(cache.find_packed(layers.first.value(), true).defined());
    BOOST_CHECK(!cache.find_packed(layers.second.value(), true).defined());
  }
  OperandCache cache(kRoom);
  const auto scope = cache.use();
  ops::linear(random_values({3, 40}, 1, DType::kFloat32), layers.first.value());
  BOOST_CHECK(!cache.clear());
}

BOOST_AUTO_TEST_CASE(a_cached_step_packs_where_memory_is_not_limited) {
  SmallModel model(16, 0.0);
  const auto gradients = [&] {
    std::vector<Tensor> all;
    for (Parameter p : model.clip.parameters()) {
      all.push_back(p.gradient().clone());
      p.clear_gradient();
    }
    return all;
  };
  const auto peak = [&](const gradcache::StepOptions& options) {
    const std::size_t before = allocator(Device::cpu()).stats().current;
    const PeakMeter meter;
    gradcache::cached_step(model.towers(), model.loss(), options);
    return meter.peak() - before;
  };
  const gradcache::StepOptions options{{4}};
  const std::size_t free = peak(options);
  const std::vector<Tensor> expected = gradients();
  const std::size_t before = allocator(Device::cpu()).stats().current;
  {
    const MemoryLimit limit(std::size_t{1} << 30, Device::cpu());
    BOOST_TEST(peak(options) < free);
  }
  check_same(expected, gradients(), "within a limit");
  BOOST_TEST(allocator(Device::cpu()).stats().current == before);
}

BOOST_AUTO_TEST_SUITE_END()
