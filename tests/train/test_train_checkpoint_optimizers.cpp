#include <span>
#include <string>
#include <utility>
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

namespace {

/// Matrices by one optimiser and rate, the rest by another kind.
struct TwoOptimizers {
  std::vector<Parameter> parameters = some_parameters();
  AdamW matrices{{parameters[0], parameters[3]}, {.weight_decay_of = [](const Parameter&) { return 0.2; }}};
  Sgd rest{{parameters[1], parameters[2]}, {.momentum = 0.9}};
  std::vector<Optimizer*> both{&matrices, &rest};

  void step(int t) {
    give_gradients(parameters, t);
    matrices.step(0.01);
    rest.step(0.1);
  }
};

}  // namespace

BOOST_AUTO_TEST_SUITE(train_checkpoint_optimizers)

BOOST_AUTO_TEST_CASE(several_optimisers_travel_too) {
  const Folder folder;
  TwoOptimizers whole, resumed;
  for (int t = 1; t <= 3; ++t) whole.step(t);
  save_checkpoint(folder / "two", whole.parameters, whole.both, {.step = 3});
  for (int t = 4; t <= 6; ++t) whole.step(t);
  resumed.step(9);  // which must not show
  BOOST_TEST(load_checkpoint(folder / "two", resumed.parameters, resumed.both).step == 3);
  for (int t = 4; t <= 6; ++t) resumed.step(t);
  BOOST_TEST(same(resumed.parameters, copies(whole.parameters)));
  BOOST_TEST(same(resumed.matrices.state(), whole.matrices.state()));
  BOOST_TEST(same(resumed.rest.state(), whole.rest.state()));

  // Two of one kind over the same names keep their state apart.
  const std::vector<Parameter> parameters = some_parameters(), fresh = some_parameters();
  AdamW a(parameters), b(parameters), c(fresh), d(fresh);
  give_gradients(parameters, 1);
  a.step(0.1);
  const std::vector<Optimizer*> saved{&a, &b}, loaded{&c, &d};
  save_checkpoint(folder / "twins", parameters, saved, {});
  load_checkpoint(folder / "twins", fresh, loaded);
  BOOST_TEST(same(c.state(), a.state()));
  BOOST_TEST(same(d.state(), b.state()));
  BOOST_TEST(!same(c.state(), d.state()));
}

BOOST_AUTO_TEST_CASE(null_optimisers_are_refused) {
  const Folder folder;
  const std::vector<Parameter> parameters = some_parameters();
  AdamW optimizer(parameters, {});
  const std::vector<Optimizer*> one{nullptr}, second{&optimizer, nullptr};
  for (const auto& [optimizers, found] :
       {std::pair{one, "optimiser 0 is null"}, std::pair{second, "optimiser 1 is null"}}) {
    BOOST_CHECK_EXCEPTION(save_checkpoint(folder / "none", parameters, optimizers, {}), ValueError,
                          says({"save_checkpoint", found}));
    BOOST_CHECK_EXCEPTION(load_checkpoint(folder / "none", parameters, optimizers), ValueError,
                          says({"load_checkpoint", found}));
  }
  BOOST_TEST(folder.entries() == 0);
}

BOOST_AUTO_TEST_CASE(optimisers_that_do_not_fit_change_nothing) {
  const Folder folder;
  TwoOptimizers good, victim;
  good.step(1), victim.step(2);
  const std::vector<Tensor> before = copies(victim.parameters);
  const auto matrices = copies(victim.matrices.state()), rest = copies(victim.rest.state());
  const auto refused = [&](std::span<Optimizer* const> optimizers, const std::vector<std::string>& words) {
    BOOST_CHECK_EXCEPTION(load_checkpoint(folder / "c", victim.parameters, optimizers), FileError, says(words));
    BOOST_TEST(same(victim.parameters, before));
    BOOST_TEST(same(victim.matrices.state(), matrices));
    BOOST_TEST(same(victim.rest.state(), rest));
  };
  save_checkpoint(folder / "c", good.parameters, good.both, {});
  const std::vector<Optimizer*> swapped{&victim.rest, &victim.matrices}, one{&victim.matrices};
  refused(swapped, {"unknown state"});
  refused(one, {"2 optimisers", "1"});
  SafetensorsFile file = read_safetensors(folder / "c");
  file.tensors["optimizer.1.velocity.scalar"] =
      Tensor::zeros({2});  // that of the second, when the first one's would fit
  write_safetensors(folder / "c", file);
  refused(victim.both, {"'velocity.scalar'", "[2]"});
  save_checkpoint(folder / "c", good.parameters, good.matrices, {});
  refused(victim.both, {"1 optimisers", "2"});
}

BOOST_AUTO_TEST_SUITE_END()
