#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "folder.h"
#include "tapecache/autograd/state.h"
#include "tapecache/core/error.h"
#include "tapecache/train/checkpoint.h"
#include "tapecache/train/optimizer.h"
#include "train_checks.h"

using namespace tapecache;
using namespace tapecache::testing;
using namespace tapecache::train;

namespace {

void take_steps(std::span<const Parameter> parameters, AdamW& adam, Ema& ema, int from, int to) {
  for (int step = from; step < to; ++step) {
    give_gradients(parameters, step);
    adam.step(0.05);
    ema.update();
  }
}

}  // namespace

BOOST_AUTO_TEST_SUITE(ema)

BOOST_AUTO_TEST_CASE(averages_are_those_of_the_formula) {
  for (const bool warm_up : {false, true}) {
    std::vector<Parameter> parameters = some_parameters();
    const std::vector<Buffer> buffers{{"mean", random_values({4}, 9)}};
    Ema average(parameters, {.decay = 0.9, .warm_up = warm_up}, buffers);
    std::vector<std::vector<double>> expected;
    for (const auto& [name, value] : state_of(parameters, buffers)) expected.push_back(doubles(value));
    for (int n = 0; n < 120; ++n) {
      const double decay = warm_up ? std::min(0.9, (1.0 + n) / (10.0 + n)) : 0.9;
      std::size_t i = 0;
      for (const auto& [name, value] : state_of(parameters, buffers)) {
        Tensor(value).copy_from(random_values(value.shape(), 100 + static_cast<std::uint64_t>(n) + i));
        const std::vector<double> now = doubles(value);
        for (std::size_t k = 0; k < now.size(); ++k) expected[i][k] = decay * expected[i][k] + (1 - decay) * now[k];
        ++i;
      }
      average.update();
    }
    BOOST_TEST(average.updates() == 120);
    BOOST_REQUIRE(average.state().size() == expected.size() + 1);
    BOOST_TEST(average.state()[4].name == "ema.mean");
    for (std::size_t i = 0; i < expected.size(); ++i) {
      BOOST_TEST(max_difference(doubles(average.state()[i].value), expected[i]) <= 1e-14);
    }
  }
}

BOOST_AUTO_TEST_CASE(a_scope_has_the_averages_and_gives_the_parameters_back) {
  std::vector<Parameter> parameters = some_parameters(DType::kFloat32);
  AdamW adam(parameters);
  Ema average(parameters, {.decay = 0.5});
  take_steps(parameters, adam, average, 0, 3);
  const std::vector<Tensor> before = copies(parameters);
  std::vector<Tensor> averages;
  for (std::size_t i = 0; i < parameters.size(); ++i) averages.push_back(average.state()[i].value.clone());
  {
    const Ema::Scope scope = average.use();
    BOOST_TEST(same(parameters, averages));
    BOOST_TEST(!same(parameters, before));
  }
  BOOST_TEST(same(parameters, before));
  const auto fail = [&] {
    const Ema::Scope scope = average.use();
    parameters[0].assign(Tensor::zeros({3, 4}));  // is no matter: it is given back
    throw std::runtime_error("an evaluation that fails");
  };
  BOOST_CHECK_THROW(fail(), std::runtime_error);
  BOOST_TEST(same(parameters, before));
  for (std::size_t i = 0; i < parameters.size(); ++i) BOOST_TEST(same_bits(average.state()[i].value, averages[i]));
}

BOOST_AUTO_TEST_CASE(a_run_goes_on_from_a_checkpoint_to_the_same_bits) {
  const Folder folder;
  std::vector<Parameter> whole = some_parameters(), first = some_parameters(), second = some_parameters();
  AdamW of_whole(whole), of_first(first), of_second(second);
  Ema average_whole(whole), average_first(first), average_second(second);
  take_steps(whole, of_whole, average_whole, 0, 6);
  take_steps(first, of_first, average_first, 0, 3);
  save_checkpoint(folder / "c", first, of_first, {.step = 3}, average_first.state());
  load_checkpoint(folder / "c", second, of_second, average_second.state());
  BOOST_TEST(average_second.updates() == 3);
  take_steps(second, of_second, average_second, 3, 6);
  BOOST_TEST(same(second, copies(whole)));
  for (std::size_t i = 0; i < average_whole.state().size(); ++i) {
    BOOST_TEST(same_bits(average_second.state()[i].value, average_whole.state()[i].value));
  }
  // A run that has no averages does not take a checkpoint that has them.
  BOOST_CHECK_EXCEPTION(load_checkpoint(folder / "c", second, of_second), FileError, says({"belongs to no parameter"}));
}

BOOST_AUTO_TEST_CASE(averages_that_are_refused) {
  std::vector<Parameter> parameters = some_parameters();
  BOOST_CHECK_EXCEPTION(Ema(parameters, {.decay = 1}), ValueError, says({"ema: decay is 1, expected 0 <= decay < 1"}));
  BOOST_CHECK_EXCEPTION(Ema(parameters, {.decay = -0.1}), ValueError, says({"decay is -0.1"}));
  parameters.push_back(parameters.front());
  BOOST_CHECK_EXCEPTION(Ema(parameters, {}), ValueError, says({"two parameters or buffers are named 'matrix'"}));
  const std::vector<Parameter> undefined{parameters.front(), Parameter()};
  BOOST_CHECK_EXCEPTION(Ema(undefined, {}), ValueError, says({"ema: parameter 1 of 2 is undefined"}));
  const std::vector<Buffer> buffers{{"count", Tensor()}};
  BOOST_CHECK_EXCEPTION(Ema({}, {}, buffers), ValueError,
                        says({"ema: buffer 'count' is undefined, expected a tensor"}));
}

BOOST_AUTO_TEST_SUITE_END()
