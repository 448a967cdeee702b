#include <boost/test/data/monomorphic.hpp>
#include <boost/test/data/test_case.hpp>

#include <algorithm>
#include <vector>

#include "random_step.h"
#include "ranks.h"
#include "tapecache/gradcache/cached.h"

using namespace tapecache;
using namespace tapecache::gradcache;
using namespace tapecache::testing;

namespace {

/// The parameters of a step, by a step that is thrown away.
std::vector<Parameter> parameters_of(const RandomStep& step) {
  const RandomState before = random_state();
  std::vector<Parameter> parameters = direct_step(step.towers, step.loss).parameters;
  for (Parameter& p : parameters) p.clear_gradient();
  random_state() = before;
  return parameters;
}

/// The random step of a seed as a program of ranks, each of which cuts its samples its own way.
Program program_of(std::uint64_t seed, bool direct) {
  return [=](Communicator* ranks, const Slice& slice) {
    RandomStep step(seed);
    Run run{{}, parameters_of(step)};
    Dice dice(seed + 1000 + static_cast<std::uint64_t>(ranks != nullptr ? ranks->rank() : 0));
    std::vector<Tower> towers;
    for (std::size_t t = 0; t < step.inputs.size(); ++t) {
      const auto& [samples, encoder] = step.inputs[t];
      const Tensor own = slice(t, samples);
      if (own.size(0) > 0 && dice.chance(20)) {
        towers.push_back(Tower::from_chunks(step.towers[t].name(), cut_at_random(dice, own), encoder));
      } else {
        towers.emplace_back(step.towers[t].name(), own, encoder);
      }
    }
    StepOptions options = step.options;
    options.reproducible_block = 0;
    options.autocast = DType::kFloat32;
    options.communicator = ranks;
    Dice travel(seed + 2000);  // alike on all ranks
    options.reduction.overlap = travel.chance(80);
    if (travel.chance(80)) options.reduction.bucket_bytes = static_cast<std::size_t>(travel.between(0, 600));
    if (ranks != nullptr) {
      const ChunkSizes sizes{dice.between(1, 9)};
      if (dice.chance(50)) options.cut = MemoryPlan{sizes.sizes, dice.between(0, 4)};
      else options.cut = sizes;
    }
    run.result = direct ? direct_step(towers, step.loss, options.direct()) : cached_step(towers, step.loss, options);
    return run;
  };
}

}  // namespace

BOOST_AUTO_TEST_SUITE(distributed_property)

/// Random architectures, shares, cuts, losses and options: the number of a case is its seed.
BOOST_DATA_TEST_CASE(ranks_equal_one_process, boost::unit_test::data::xrange(240), number) {
  const auto seed = static_cast<std::uint64_t>(number);
  const RandomStep step(seed);
  Dice dice(seed + 500);
  const bool direct = dice.chance(25);
  const int size = static_cast<int>(dice.between(2, 4));
  std::vector<std::vector<std::int64_t>> counts;
  for (const auto& [samples, encoder] : step.inputs) {
    std::vector<std::int64_t>& of_tower = counts.emplace_back(static_cast<std::size_t>(size), 0);
    for (std::int64_t i = 0; i < samples.size(0); ++i) ++of_tower[static_cast<std::size_t>(dice.between(0, size - 1))];
    // Two draws in a row are more uneven than one.
    if (dice.chance(40)) of_tower[0] += std::exchange(of_tower[1], 0);
  }
  if (!has_group(size)) return;
  // Chunks of one process, in which rounding to bf16 would depend on the cut.
  const Program program = program_of(seed, direct);
  const Outcome alone = outcome_of(program, nullptr, {});
  check_as_alone(outcomes_of(program, size, counts), alone, step.tolerance());
}

BOOST_AUTO_TEST_SUITE_END()
