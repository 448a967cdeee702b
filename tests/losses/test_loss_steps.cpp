#include <span>
#include <string>
#include <utility>
#include <vector>

#include "gradcache_checks.h"
#include "loss_table.h"
#include "tapecache/gradcache/step.h"

// Each loss in steps, on the device under test.

using namespace tapecache;
using namespace tapecache::gradcache;
using namespace tapecache::testing;

namespace {

/// A loss of the table behind one encoder for each of its representations, with dropout.
struct LossSetup {
  std::vector<Tower> towers;
  Loss loss;
  std::vector<Parameter> parameters;

  LossSetup(const LossRow& row, DType dtype, Device device) {
    std::vector<Variable> own;
    for (std::size_t i = 0; i < row.inputs.size(); ++i) {
      const Tensor input = row.inputs[i].to(dtype).to(device);
      const std::string name = std::to_string(i);
      if (i >= row.representations) {
        own.emplace_back(parameters.emplace_back("own" + name, input));
        continue;
      }
      const Tensor weight = random_values({input.size(-1), input.size(-1)}, 50 + i, dtype).to(device);
      towers.emplace_back("tower" + name, input,
                          [w = parameters.emplace_back("weight" + name, weight)](const Tensor& x) {
                            return ops::tanh(ops::dropout(ops::linear(x, w), 0.2));
                          });
    }
    loss = [of = row.loss, own](const Representations& r) {
      std::vector<Variable> inputs(r.begin(), r.end());
      inputs.insert(inputs.end(), own.begin(), own.end());
      return of(inputs);
    };
  }
};

}  // namespace

BOOST_AUTO_TEST_SUITE(loss_steps)

BOOST_AUTO_TEST_CASE(cached_steps_equal_direct_ones, *on_device) {
  for (const LossRow& row : loss_rows()) {
    for (const auto& [dtype, tolerance] : kStepTypes) {
      const LossSetup setup(row, dtype, kDevice);
      for (const std::int64_t chunk : {2, 5}) {
        BOOST_TEST_CONTEXT(row.name << ", " << name(dtype) << ", chunks of " << chunk) {
          begin_random_step(5, 3);
          check_equal(compare(setup.towers, setup.loss, device_options({chunk}), setup.parameters), tolerance);
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(cached_steps_equal_direct_ones_on_the_cpu, *on_device) {
  for (const LossRow& row : loss_rows()) {
    for (const auto& [dtype, tolerance] : kStepTypes) {
      BOOST_TEST_CONTEXT(row.name << ", " << name(dtype)) {
        const LossSetup setup(row, dtype, kDevice), host(row, dtype, Device::cpu());
        begin_random_step(5, 3);
        const StepResult found = cached_step(setup.towers, setup.loss, device_options({4}));
        begin_random_step(5, 3);
        const StepResult expected = direct_step(host.towers, host.loss);
        check_alike(found, setup.parameters, expected, host.parameters, tolerance);
      }
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
