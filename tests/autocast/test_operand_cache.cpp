#include <boost/test/unit_test.hpp>

#include <array>
#include <optional>
#include <vector>

#include "checks.h"
#include "small_model.h"
#include "tapecache/autograd/modes.h"
#include "tapecache/autograd/operand_cache.h"
#include "tapecache/core/allocator.h"
#include "tapecache/ops/linear.h"

// Rounded copies of parameters are made once, and are always those of the present values.

using namespace tapecache;
using namespace tapecache::testing;

namespace {

constexpr std::int64_t kIn = 24, kOut = 16;

/// Queries, keys and values of one x.
struct Layer {
  std::vector<Parameter> weights, biases;
  Tensor x = single({5, kIn}, 1);

  Layer() {
    for (std::uint64_t i = 0; i < 3; ++i) {
      weights.emplace_back("weight", single({kOut, kIn}, 10 + i));
      biases.emplace_back("bias", single({kOut}, 20 + i));
    }
  }

  Tensor linear() const { return ops::linear(x, weights[0], biases[0]).value(); }
  Tensor joined() const {
    const std::array<Variable, 3> w{weights[0], weights[1], weights[2]}, b{biases[0], biases[1], biases[2]};
    return ops::multi_linear(x, w, b).value();
  }
};

/// What f gives where nothing has been kept.
template <class F>
Tensor afresh(const F& f, DType low = DType::kBFloat16) {
  OperandCache empty;
  const auto scope = empty.use();
  const Autocast autocast(low);
  return f();
}

}  // namespace

BOOST_AUTO_TEST_SUITE(autocast)

BOOST_AUTO_TEST_CASE(a_parameter_is_rounded_once) {
  const Layer layer;
  OperandCache cache;
  const auto scope = cache.use();
  BOOST_CHECK(OperandCache::current() == &cache);
  {
    const Autocast autocast(DType::kBFloat16);
    BOOST_CHECK(OperandCache::current() == &cache);
    const Tensor first = layer.linear(), kept = cache.find({&layer.weights[0], 1}, DType::kBFloat16);
    BOOST_REQUIRE(kept.defined());
    BOOST_CHECK(same_bits(kept, layer.weights[0].value().to(DType::kBFloat16)));
    BOOST_CHECK(same_bits(layer.linear(), first));
    BOOST_CHECK(cache.find({&layer.weights[0], 1}, DType::kBFloat16).shares_storage(kept));
    BOOST_CHECK(!cache.find({&layer.weights[0], 1}, DType::kFloat16).defined());
  }
  layer.linear();  // in f32: nothing to keep
  BOOST_CHECK(cache.clear());
  BOOST_CHECK(!cache.clear());
  BOOST_CHECK(!cache.find({&layer.weights[0], 1}, DType::kBFloat16).defined());
}

BOOST_AUTO_TEST_CASE(an_autocast_keeps_copies_for_its_length) {
  const Layer layer;
  BOOST_CHECK(!OperandCache::current());
  {
    const Autocast outer(DType::kBFloat16);
    OperandCache* cache = OperandCache::current();
    BOOST_REQUIRE(cache);
    layer.linear();
    {
      const Autocast off(DType::kFloat32);
      const Autocast inner(DType::kBFloat16);
      BOOST_CHECK(OperandCache::current() == cache);
    }
    Allocator& memory = allocator(Device::cpu());
    const std::size_t before = memory.stats().current;
    memory.reset_peak();
    layer.linear();
    BOOST_TEST(memory.stats().peak - before <
               kOut * kIn * 2);  // x in bf16 and the result: no second copy of the weight
    memory.reset_peak();
    afresh([&] { return layer.linear(); });
    BOOST_TEST(memory.stats().peak - before > kOut * kIn * 2);
  }
  BOOST_CHECK(!OperandCache::current());
}

BOOST_AUTO_TEST_CASE(a_copy_follows_its_parameter) {
  for (const DType low : {DType::kBFloat16, DType::kFloat16}) {
    Layer layer;
    const auto both = [&] { return std::array{layer.linear(), layer.joined()}; };
    const auto check = [&](const char* what) {
      const auto now = both();
      BOOST_CHECK_MESSAGE(same_bits(now[0], afresh([&] { return layer.linear(); }, low)), what);
      BOOST_CHECK_MESSAGE(same_bits(now[1], afresh([&] { return layer.joined(); }, low)), what);
    };
    const Autocast autocast(low);
    const auto first = both();
    check("unchanged");
    layer.weights[0].mutable_value().mutable_data<float>()[3] += 1;
    check("a weight was written to");
    BOOST_CHECK(!same_bits(both()[0], first[0]));
    layer.biases[0].mutable_value().fill(0.5);
    check("a bias was written to");
    layer.weights[0].assign(single({kOut, kIn}, 77));
    check("a weight was replaced");
    layer.weights[0] = Parameter("weight", single({kOut, kIn}, 78));
    check("another parameter");
  }
}

BOOST_AUTO_TEST_CASE(what_is_no_parameter_is_not_kept) {
  const Layer layer;
  OperandCache cache;
  const auto scope = cache.use();
  const Autocast autocast(DType::kBFloat16);
  const Tensor weight = single({kOut, kIn}, 5);
  ops::linear(layer.x, weight);
  const std::array<Variable, 2> mixed{layer.weights[0], weight};
  ops::multi_linear(layer.x, mixed);
  BOOST_CHECK(!cache.clear());
}

BOOST_AUTO_TEST_CASE(a_variable_may_hold_an_earlier_value) {
  const Tensor x = single({5, kIn}, 1), both = single({2 * kOut, kIn}, 2);
  const auto y = [&](const Variable& weight) { return ops::linear(x, weight).value(); };
  const auto value_afresh = [&](const Tensor& value) { return afresh([&] { return y(value); }); };
  Parameter p("weight", both.slice(0, kOut));
  const Tensor old = p.value();
  const Variable earlier(p);
  const Autocast autocast(DType::kBFloat16);
  // The other half of one storage, then another.
  for (const Tensor& value : {both.slice(kOut, 2 * kOut), single({kOut, kIn}, 3)}) {
    BOOST_TEST(same_bits(y(earlier), value_afresh(old)));
    p.mutable_value() = value;
    BOOST_TEST(same_bits(y(earlier), value_afresh(old)));
    BOOST_TEST(same_bits(y(p), value_afresh(value)));
    BOOST_TEST(same_bits(y(earlier), value_afresh(old)));
  }
}

BOOST_AUTO_TEST_CASE(packed_weights_give_each_its_columns) {
  Layer layer;
  const Tensor all = afresh([&] { return layer.joined(); });
  for (std::size_t i = 0; i < 3; ++i) {
    const Tensor one = afresh([&] { return ops::linear(layer.x, layer.weights[i], layer.biases[i]).value(); });
    for (std::int64_t row = 0; row < 5; ++row) {
      for (std::int64_t j = 0; j < kOut; ++j) {
        const double joined = all.data<float>()[row * 3 * kOut + static_cast<std::int64_t>(i) * kOut + j];
        BOOST_TEST(joined == one.data<float>()[row * kOut + j]);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(a_step_leaves_no_copies_behind) {
  SmallModel model(16);
  gradcache::StepOptions options{{4}};
  options.autocast = DType::kBFloat16;
  gradcache::cached_step(model.towers(), model.loss(), options);
  for (Parameter p : model.clip.parameters()) p.clear_gradient();
  const std::size_t before = allocator(Device::cpu()).stats().current;
  for (int i = 0; i < 2; ++i) {
    gradcache::cached_step(model.towers(), model.loss(), options);
    for (Parameter p : model.clip.parameters()) p.clear_gradient();
    BOOST_TEST(allocator(Device::cpu()).stats().current == before);
    BOOST_CHECK(!OperandCache::current());
  }
}

BOOST_AUTO_TEST_SUITE_END()
