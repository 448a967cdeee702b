#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "folder.h"
#include "tapecache/core/error.h"
#include "tapecache/core/files.h"
#include "tapecache/train/checkpoint.h"
#include "tapecache/train/optimizer.h"
#include "train_checks.h"

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

BOOST_AUTO_TEST_CASE(state_moves_between_optimisers) {
  const std::vector<Parameter> a = some_parameters(), b = some_parameters();
  AdamW from(a), to(b);
  for (int t = 1; t <= 3; ++t) give_gradients(a, t), from.step(0.1);
  for (std::size_t i = 0; i < a.size(); ++i) Parameter(b[i]).assign(a[i].value());
  to.load_state(from.state());
  BOOST_TEST(same(from.state(), to.state()));
  for (const auto& [name, tensor] : to.state()) BOOST_TEST(!tensor.shares_storage(from.state().at(name)));
  give_gradients(a, 4), from.step(0.1);
  BOOST_TEST(to.state().at("steps.vector").item() == 3);
  give_gradients(b, 4), to.step(0.1);
  BOOST_TEST(same(b, copies(a)));

  Sgd momentum(a, {.momentum = 0.9});
  give_gradients(a, 5), momentum.step(0.1);
  const std::map<std::string, Tensor> state = momentum.state();
  BOOST_TEST(state.size() == 4u);
  // "The tensors are the optimiser's own."
  for (const auto& [name, tensor] : momentum.state()) BOOST_TEST(tensor.shares_storage(state.at(name)));
}

BOOST_AUTO_TEST_CASE(state_that_does_not_fit_changes_nothing) {
  const std::vector<Parameter> parameters = some_parameters();
  AdamW optimizer(parameters);
  give_gradients(parameters, 1);
  optimizer.step(0.1);
  const auto before = copies(optimizer.state());
  auto good = copies(optimizer.state());
  for (auto& [name, tensor] : good) tensor.fill(3);
  const auto refused = [&]<class E>(E*, const std::function<void(std::map<std::string, Tensor>&)>& change,
                                    const std::vector<std::string>& words) {
    auto state = copies(good);
    change(state);
    BOOST_CHECK_EXCEPTION(optimizer.load_state(state), E, says(words));
    BOOST_TEST(same(optimizer.state(), before));
  };
  ValueError* const value_error = nullptr;
  ShapeError* const shape_error = nullptr;
  refused(value_error, [](auto& s) { s.erase("v.vector"); }, {"'v.vector'", "missing"});
  refused(value_error, [](auto& s) { s.erase("steps.vector"); }, {"'steps.vector'", "missing"});
  refused(value_error, [](auto& s) { s.clear(); }, {"missing"});
  refused(value_error, [](auto& s) { s.emplace("w.vector", Tensor::zeros({5})); }, {"'w.vector'", "unknown"});
  refused(shape_error, [](auto& s) { s["v.vector"] = Tensor::zeros({6}, DType::kFloat64); },
          {"'v.vector'", "[6]", "[5]"});
  refused(shape_error,
          [](auto& s) {
            s["v.matrix"] = s["v.matrix"].reshape({4, 3});
          },
          {"'v.matrix'", "[4, 3]", "[3, 4]"});
  refused(shape_error, [](auto& s) { s["v.vector"] = Tensor::zeros({5}); }, {"'v.vector'", "float32", "float64"});
  refused(shape_error, [](auto& s) { s["steps.vector"] = Tensor::zeros({}); }, {"'steps.vector'", "int64"});
  BOOST_CHECK_THROW(optimizer.load_state(Sgd(parameters).state()), ValueError);
  BOOST_TEST(same(optimizer.state(), before));
  optimizer.load_state(good);
  BOOST_TEST(same(optimizer.state(), good));
}

BOOST_AUTO_TEST_CASE(two_parameters_of_one_name_do_not_share_state) {
  // Else a checkpoint would silently keep the state of one of them.
  const std::vector<Parameter> twins{{"w", Tensor::zeros({2})}, {"w", Tensor::zeros({3})}};
  const auto keeps_both = [&](const auto& make) {
    try {
      return make();
    } catch (const ValueError&) {
      return true;
    }
  };
  BOOST_TEST(keeps_both([&] { return AdamW(twins).state().size() == 5; }));
  BOOST_TEST(keeps_both([&] { return Sgd(twins).state().size() == 2; }));
}

BOOST_AUTO_TEST_SUITE_END()
