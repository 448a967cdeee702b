#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "checks.h"
#include "op_table.h"
#include "philox_reference.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/core/random.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/reduce.h"

using namespace tapecache;
using namespace tapecache::testing;

namespace {

/// What is drawn for rows [begin, end) of ten, each a sample, by whatever draws for a number of rows.
using DrawRows = Tensor (*)(std::int64_t begin, std::int64_t end);

constexpr std::int64_t kRows = 10;
const Shape kShape{kRows, 70};

Tensor dropped(std::int64_t begin, std::int64_t end) {
  return ops::drop_path(random_tensor(kShape, DType::kFloat32, 3).slice(begin, end), 0.4).value();
}

Tensor uniforms(std::int64_t begin, std::int64_t end) { return ops::sample_uniform(end - begin, 70); }

constexpr DrawRows kDraws[] = {dropped, uniforms};

Tensor row(const Tensor& t, std::int64_t i) { return t.slice(i, i + 1).clone(); }

}  // namespace

BOOST_AUTO_TEST_SUITE(sample_draws)

BOOST_AUTO_TEST_CASE(slices_equal_the_whole) {
  for (const DrawRows draw : kDraws) {
    begin_random_step(5, 6);
    const Tensor whole = draw(0, kRows);
    for (const std::int64_t chunk : {1, 3, 4}) {
      for (std::int64_t begin = 0; begin < kRows; begin += chunk) {
        const std::int64_t end = std::min(kRows, begin + chunk);
        begin_random_step(5, 6);
        random_state().first_sample = begin;
        BOOST_CHECK(same_bits(draw(begin, end), whole.slice(begin, end).clone()));
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(samples_in_any_order_draw_what_is_theirs) {
  const std::vector<std::int64_t> order{7, 2, 9, 0, 2};
  const Tensor ids = Tensor::from(order, {5});
  begin_random_step(5, 6);
  const Tensor whole = ops::sample_uniform(kRows, 70);
  const Tensor kept = ops::drop_path(Tensor::full(kShape, 1), 0.4).value();
  begin_random_step(5, 6);
  random_state().sample_ids = ids;
  const Tensor some = ops::sample_uniform(5, 70);
  Tape tape;
  const Variable x = tape.leaf(Tensor::full({5, 70}, 1));
  Variable y, sum;
  {
    const Recording recording(tape);
    y = ops::drop_path(x, 0.4);
    sum = ops::sum(y);
  }
  begin_random_step(1, 1);  // the derivative goes by what was in view in the forward
  tape.backward(sum);
  for (std::size_t i = 0; i < order.size(); ++i) {
    const auto to = static_cast<std::int64_t>(i);
    BOOST_CHECK(same_bits(row(some, to), row(whole, order[i])));
    BOOST_CHECK(same_bits(row(y.value(), to), row(kept, order[i])));
  }
  BOOST_CHECK(same_bits(tape.gradient(x), y.value()));
  const std::vector<double> values = doubles(kept);
  const auto zeros = std::count(values.begin(), values.end(), 0.0);
  BOOST_CHECK(zeros > 0 && zeros < kShape.numel() && zeros % 70 == 0);
}

BOOST_AUTO_TEST_CASE(several_rows_of_a_sample) {
  begin_random_step(5, 6);
  random_state().samples = 2;
  const Tensor kept = ops::drop_path(Tensor::full({400, 3}, 1), 0.5).value();
  for (std::int64_t sample = 0; sample < 2; ++sample) {
    const std::vector<double> values = doubles(kept.slice(200 * sample, 200 * (sample + 1)));
    BOOST_CHECK(std::all_of(values.begin(), values.end(), [&](double v) { return v == values[0]; }));
  }
  begin_random_step(5, 6);
  random_state().samples = 2;
  const Tensor rows = ops::sample_uniform(6, 5);
  begin_random_step(5, 6);
  BOOST_CHECK(same_bits(rows.reshape({2, 15}), ops::sample_uniform(2, 15)));
}

BOOST_AUTO_TEST_CASE(calls_steps_and_seeds_draw_anew) {
  for (const DrawRows draw : kDraws) {
    begin_random_step(1, 1);
    const Tensor first = draw(0, kRows), second_call = draw(0, kRows);
    BOOST_CHECK_EQUAL(random_state().key.call, 2u);
    begin_random_step(1, 2);
    const Tensor other_step = draw(0, kRows);
    begin_random_step(2, 1);
    const Tensor other_seed = draw(0, kRows);
    begin_random_step(1, 1);
    BOOST_CHECK(same_bits(first, draw(0, kRows)));
    for (const Tensor& other : {second_call, other_step, other_seed}) BOOST_CHECK(!same_bits(first, other));
  }
}

BOOST_AUTO_TEST_CASE(share_of_kept_samples) {
  begin_random_step(11, 0);
  for (const double p : {0.1, 0.5, 0.9}) {
    const Tensor y = ops::drop_path(Tensor::full({100'000, 2}, 1, DType::kFloat64), p).value();
    const double kept = ops::sum(y).value().item() * (1 - p) / 2 / 100'000;
    BOOST_CHECK(std::abs(kept - (1 - p)) <= 0.008);  // five standard deviations are at most 0.0079
  }
}

BOOST_AUTO_TEST_CASE(drop_path_of_probability_0_takes_a_call_number) {
  begin_random_step(1, 1);
  const Variable x = Tensor::full({2, 3}, 1);
  BOOST_CHECK(ops::drop_path(x, 0).value().shares_storage(x.value()));
  BOOST_CHECK_EQUAL(random_state().key.call, 1u);
}

BOOST_AUTO_TEST_CASE(a_dropped_sample_may_hold_anything) {
  begin_random_step(1, 1);
  const Tensor kept = ops::drop_path(Tensor::full({64, 3}, 1), 0.5).value();
  begin_random_step(1, 1);
  const Tensor y = ops::drop_path(Tensor::full({64, 3}, std::numeric_limits<double>::quiet_NaN()), 0.5).value();
  const std::vector<double> ones = doubles(kept), values = doubles(y);
  for (std::size_t i = 0; i < ones.size(); ++i) BOOST_CHECK(ones[i] == 0 ? values[i] == 0 : std::isnan(values[i]));
}

BOOST_AUTO_TEST_CASE(drop_path_saves_no_mask) {
  Tape tape;
  const Variable x = tape.leaf(Tensor::full({4, 4}, 1));
  const Recording recording(tape);
  ops::drop_path(x, 0.5);
  BOOST_REQUIRE_EQUAL(tape.nodes().size(), 1u);
  BOOST_CHECK(tape.nodes()[0].saved.empty());
}

BOOST_AUTO_TEST_CASE(uniforms_are_those_of_philox) {
  begin_random_step(0x0123456789abcdef, 77);
  random_state().key.call = 3;
  random_state().first_sample = 1000;
  const Tensor u = ops::sample_uniform(4, 131);
  BOOST_REQUIRE((u.shape() == Shape{4, 131}));
  BOOST_REQUIRE(u.dtype() == DType::kFloat32);
  for (std::uint32_t sample = 0; sample < 4; ++sample) {
    for (std::uint32_t element = 0; element < 131; ++element) {
      const PhiloxReference philox{{element / 4, 1000 + sample, 3, 77}, {0x89abcdef, 0x01234567}};
      const double expected = philox.word(static_cast<int>(element % 4)) / 256 / 16777216.0;
      BOOST_REQUIRE_EQUAL(static_cast<double>(u.data<float>()[sample * 131 + element]), expected);
    }
  }
}

BOOST_AUTO_TEST_CASE(uniforms_have_the_mean_and_variance_they_should) {
  begin_random_step(11, 0);
  const std::vector<double> u = doubles(ops::sample_uniform(1000, 100));
  double sum = 0, squares = 0;
  for (const double v : u) {
    BOOST_REQUIRE(v >= 0 && v < 1);
    sum += v;
    squares += (v - 0.5) * (v - 0.5);
  }
  BOOST_CHECK(std::abs(sum / 1e5 - 0.5) <= 0.0046);           // five standard deviations
  BOOST_CHECK(std::abs(squares / 1e5 - 1.0 / 12) <= 0.0012);  // five standard deviations
}

BOOST_AUTO_TEST_CASE(no_uniforms_at_all) {
  begin_random_step(1, 1);
  BOOST_CHECK((ops::sample_uniform(0, 4).shape() == Shape{0, 4}));
  BOOST_CHECK((ops::sample_uniform(4, 0).shape() == Shape{4, 0}));
  BOOST_CHECK_EQUAL(random_state().key.call, 2u);
}

BOOST_AUTO_TEST_SUITE_END()
