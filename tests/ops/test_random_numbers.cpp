#include <algorithm>
#include <array>
#include <cmath>

#include "checks.h"
#include "op_table.h"
#include "philox_reference.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/core/random.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/reduce.h"

using namespace tapecache;
using namespace tapecache::testing;

BOOST_AUTO_TEST_SUITE(random_numbers)

BOOST_AUTO_TEST_CASE(published_philox_vectors) {
  struct Vector {
    std::array<std::uint32_t, 4> counter;
    std::array<std::uint32_t, 2> key;
    std::array<std::uint32_t, 4> expected;
  };
  const Vector vectors[] = {
      // Random123, kat_vectors
      {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
       {0xffffffff, 0xffffffff},
       {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
       {0xa4093822, 0x299f31d0},
       {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
  };
  for (const Vector& v : vectors) {
    const auto found = RandomKey::philox4x32(v.counter, v.key);
    BOOST_CHECK_EQUAL_COLLECTIONS(found.begin(), found.end(), v.expected.begin(), v.expected.end());
    const PhiloxReference reference{{v.counter[0], v.counter[1], v.counter[2], v.counter[3]}, {v.key[0], v.key[1]}};
    for (int i = 0; i < 4; ++i) BOOST_CHECK_EQUAL(reference.word(i), v.expected[static_cast<std::size_t>(i)]);
  }
}

BOOST_AUTO_TEST_CASE(uniform_stays_below_one) {
  BOOST_CHECK_EQUAL(RandomKey::uniform(0), 0.0f);
  BOOST_CHECK_EQUAL(RandomKey::uniform(0xffffffff), 1 - 0x1p-24f);
}

BOOST_AUTO_TEST_CASE(dropout_does_not_depend_on_how_the_batch_is_split) {
  const Tensor x = random_tensor({10, 7}, DType::kFloat32, 3);
  begin_random_step(5, 6);
  const Tensor whole = ops::dropout(x, 0.4).value();
  for (const std::int64_t chunk : {1, 3, 4}) {
    for (std::int64_t begin = 0; begin < 10; begin += chunk) {
      const std::int64_t end = std::min<std::int64_t>(10, begin + chunk);
      begin_random_step(5, 6);
      random_state().first_sample = begin;
      BOOST_CHECK(same_bits(ops::dropout(x.slice(begin, end), 0.4).value(), whole.slice(begin, end).clone()));
    }
  }
}

BOOST_AUTO_TEST_CASE(each_call_step_and_seed_draws_anew) {
  const Tensor x = Tensor::full({4, 64}, 1);
  begin_random_step(1, 1);
  const Tensor first = ops::dropout(x, 0.5).value();
  const Tensor second_call = ops::dropout(x, 0.5).value();
  begin_random_step(1, 2);
  const Tensor other_step = ops::dropout(x, 0.5).value();
  begin_random_step(2, 1);
  const Tensor other_seed = ops::dropout(x, 0.5).value();
  begin_random_step(1, 1);
  const Tensor again = ops::dropout(x, 0.5).value();
  BOOST_CHECK(same_bits(first, again));
  for (const Tensor& other : {second_call, other_step, other_seed}) BOOST_CHECK(!same_bits(first, other));
  BOOST_CHECK(!same_bits(first.slice(0, 1).clone(), first.slice(1, 2).clone()));
}

BOOST_AUTO_TEST_CASE(dropout_of_probability_0_takes_a_call_number) {
  begin_random_step(1, 1);
  const Variable x = Tensor::full({2, 3}, 1);
  BOOST_CHECK(ops::dropout(x, 0).value().shares_storage(x.value()));
  BOOST_CHECK_EQUAL(random_state().key.call, 1u);
}

BOOST_AUTO_TEST_CASE(dropout_keeps_the_mean) {
  begin_random_step(11, 0);
  const Tensor y = ops::dropout(Tensor::full({1000, 100}, 1), 0.3).value();
  const double mean = ops::mean(y).value().item();
  BOOST_CHECK(std::abs(mean - 1) <= 0.01);  // five standard deviations are 0.0104
}

BOOST_AUTO_TEST_CASE(dropout_saves_no_mask) {
  Tape tape;
  const Variable x = tape.leaf(Tensor::full({4, 4}, 1));
  const Recording recording(tape);
  ops::dropout(x, 0.5);
  BOOST_REQUIRE_EQUAL(tape.nodes().size(), 1u);
  BOOST_CHECK(tape.nodes()[0].saved.empty());
}

BOOST_AUTO_TEST_SUITE_END()
