#include <functional>
#include <utility>
#include <vector>

#include "devices.h"
#include "folder.h"
#include "tapecache/core/allocator.h"
#include "tapecache/core/device.h"
#include "tapecache/core/error.h"
#include "tapecache/train/checkpoint.h"
#include "tapecache/train/optimizer.h"
#include "train_checks.h"

// What training leaves behind where the device under test has no memory left: all as it was.

using namespace tapecache;
using namespace tapecache::testing;
using namespace tapecache::train;

namespace {

/// Each larger than the one before, so that there may be room for some of them alone.
std::vector<Parameter> large_parameters(Device device) {
  std::vector<Parameter> parameters;
  for (const auto& [name, size] : {std::pair{"p", 1000}, std::pair{"q", 2000}, std::pair{"r", 4000}}) {
    parameters.emplace_back(name, random_values({size}, 1 + parameters.size(), DType::kFloat32).to(device));
  }
  return parameters;
}

/// Calls `action` with ever more of its memory until it does not throw OutOfMemory; `check` after each that
/// did, which is never where it needs none.
void with_more_and_more_memory(const std::function<void()>& action, const std::function<void()>& check,
                               bool needs_memory = true) {
  const std::size_t in_use = allocator(kDevice).stats().current;
  int refused = 0;
  for (std::size_t room = 1000;; room += 1000) {
    try {
      const MemoryLimit limit(in_use + room, kDevice);
      action();
      break;
    } catch (const OutOfMemory&) {
      ++refused;
      check();
    }
  }
  if (needs_memory) BOOST_TEST(refused > 2);
  else BOOST_TEST(refused == 0);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(training_memory)

BOOST_AUTO_TEST_CASE(a_step_without_memory_for_its_state_is_not_counted, *on_device) {
  const std::vector<Parameter> here = large_parameters(Device::cpu()), there = large_parameters(Device::cpu());
  AdamW a(here), b(there);
  for (Parameter p : there) p.move_to(kDevice);
  give_gradients(here, 1);
  give_gradients(there, 1);
  const auto state = copies(b.state());
  const std::vector<Tensor> before = copies(there);
  with_more_and_more_memory([&] { b.step(0.1); },
                            [&] {
                              BOOST_TEST(same(b.state(), state));
                              BOOST_TEST(same(there, before));
                            },
                            kDevice != Device::cpu());  // where the state is already
  a.step(0.1);
  for (std::size_t i = 0; i < here.size(); ++i) BOOST_TEST(max_difference(there[i].value(), here[i].value()) <= 1e-6);
}

BOOST_AUTO_TEST_CASE(state_without_memory_for_it_is_not_loaded_in_part, *on_device) {
  const std::vector<Parameter> here = large_parameters(Device::cpu()), there = large_parameters(kDevice);
  AdamW a(here), b(there);
  give_gradients(here, 1);
  give_gradients(there, 2);
  a.step(0.1);
  b.step(0.1);
  const auto state = copies(b.state()), loaded = a.state();
  with_more_and_more_memory([&] { b.load_state(loaded); }, [&] { BOOST_TEST(same(b.state(), state)); },
                            kDevice != Device::cpu());  // from which it is copied in place
  BOOST_TEST(same(b.state(), loaded));
}

BOOST_AUTO_TEST_CASE(a_checkpoint_without_memory_for_it_is_not_loaded_in_part, *on_device) {
  const Folder folder;
  const std::vector<Parameter> parameters = large_parameters(kDevice);
  AdamW first({parameters[0]});
  Sgd rest({parameters[1], parameters[2]}, {.momentum = 0.9});
  const std::vector<Optimizer*> both{&first, &rest};
  const auto step = [&](int t) {
    give_gradients(parameters, t);
    for (Optimizer* optimizer : both) optimizer->step(0.1);
  };
  step(1);
  save_checkpoint(folder / "c", parameters, both, {.step = 1});
  const std::vector<Tensor> saved = copies(parameters);
  const auto saved_first = copies(first.state()), saved_rest = copies(rest.state());
  step(2);
  const std::vector<Tensor> values = copies(parameters);
  const auto state_first = copies(first.state()), state_rest = copies(rest.state());
  with_more_and_more_memory([&] { load_checkpoint(folder / "c", parameters, both); },
                            [&] {
                              BOOST_TEST(same(parameters, values));
                              BOOST_TEST(same(first.state(), state_first));
                              BOOST_TEST(same(rest.state(), state_rest));
                            });
  BOOST_TEST(same(parameters, saved));
  BOOST_TEST(same(first.state(), saved_first));
  BOOST_TEST(same(rest.state(), saved_rest));
}

BOOST_AUTO_TEST_SUITE_END()
