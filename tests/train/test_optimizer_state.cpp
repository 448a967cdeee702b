#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "folder.h"
#include "train_checks.h"
#include "tapecache/core/error.h"
#include "tapecache/core/safetensors.h"
#include "tapecache/train/checkpoint.h"
#include "tapecache/train/optimizer.h"

using namespace tapecache;
using namespace tapecache::testing;
using namespace tapecache::train;

BOOST_AUTO_TEST_SUITE(optimizer_state)

BOOST_AUTO_TEST_CASE(a_step_that_throws_is_not_counted) {
  const std::vector<Parameter> parameters = some_parameters(DType::kFloat32);
  std::vector<Parameter> all = parameters;
  all.emplace_back("narrow", Tensor::zeros({2}, DType::kBFloat16));  // which no step takes
  AdamW optimizer(all);
  give_gradients(all, 1);
  const std::vector<Tensor> before = copies(all);
  const auto state = copies(optimizer.state());
  BOOST_CHECK_EXCEPTION(optimizer.step(0.1), DTypeError, says({"bfloat16"}));
  BOOST_TEST(same(all, before));
  BOOST_TEST(same(optimizer.state(), state));
  // The next one is corrected as a first step.
  all.back().clear_gradient();
  optimizer.step(0.1);
  const std::vector<Parameter> others = some_parameters(DType::kFloat32);
  AdamW other(others);
  give_gradients(others, 1);
  other.step(0.1);
  BOOST_TEST(same(parameters, copies(others)));
}

BOOST_AUTO_TEST_CASE(counts_of_steps_below_0_are_refused) {
  const Folder folder;
  const std::vector<Parameter> parameters = some_parameters();
  AdamW optimizer(parameters);
  give_gradients(parameters, 1);
  optimizer.step(0.1);
  save_checkpoint(folder / "c", parameters, optimizer, {.step = 1});
  optimizer.step(0.1);
  const auto before = copies(optimizer.state());
  const std::vector<Tensor> values = copies(parameters);
  auto state = copies(before);
  state["steps.vector"] = Tensor::scalar(std::int64_t{-1});
  BOOST_CHECK_EXCEPTION(optimizer.load_state(state), ValueError, says({"AdamW", "'steps.vector'", "-1", "at least 0"}));
  BOOST_TEST(same(optimizer.state(), before));
  SafetensorsFile file = read_safetensors(folder / "c");
  file.tensors["optimizer.steps.vector"] = Tensor::scalar(std::int64_t{-7});
  write_safetensors(folder / "negative", file);
  BOOST_CHECK_EXCEPTION(load_checkpoint(folder / "negative", parameters, optimizer), FileError,
                        says({"negative", "'steps.vector'", "-7"}));
  BOOST_TEST(same(optimizer.state(), before));
  BOOST_TEST(same(parameters, values));
}

BOOST_AUTO_TEST_CASE(positions_below_0_are_refused) {
  const Folder folder;
  const std::vector<Parameter> parameters = some_parameters();
  Sgd optimizer(parameters);
  BOOST_CHECK_EXCEPTION(save_checkpoint(folder / "c", parameters, optimizer, {.step = -1}), ValueError,
                        says({"save_checkpoint", "-1", "at least 0"}));
  BOOST_TEST(folder.entries() == 0);
  save_checkpoint(folder / "c", parameters, optimizer, {.step = 0});
  SafetensorsFile file = read_safetensors(folder / "c");
  file.metadata["tapecache.step"] = "-3";
  write_safetensors(folder / "c", file);
  BOOST_CHECK_EXCEPTION(load_checkpoint(folder / "c", parameters, optimizer), FileError,
                        says({"'tapecache.step'", "-3", "at least 0"}));
}

BOOST_AUTO_TEST_SUITE_END()
