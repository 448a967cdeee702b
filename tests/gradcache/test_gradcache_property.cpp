#include <boost/test/data/monomorphic.hpp>
#include <boost/test/data/test_case.hpp>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "gradcache_checks.h"
#include "random_step.h"
#include "tapecache/autograd/function.h"
#include "tapecache/gradcache/cached.h"
#include "tapecache/losses/losses.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/reduce.h"

using namespace tapecache;
using namespace tapecache::gradcache;
using namespace tapecache::losses;
using namespace tapecache::testing;

namespace {

/// Where the loss is flat, all that is left of a gradient is the rounding of terms that cancel: one below a millionth
/// counts as a millionth.
void check_alike(const Comparison& found, double tolerance) {
  BOOST_TEST(!found.parameters.empty());
  double largest = 0;
  for (const auto& p : found.parameters) largest = std::max(largest, p.max_absolute);
  const bool both_vanish = largest <= tolerance * 1e-6 && !std::isnan(found.relative_norm);
  BOOST_TEST((found.relative_norm <= tolerance || both_vanish), found.relative_norm << ", at most " << largest);
  BOOST_TEST(std::abs(found.loss_reference - found.loss_other) <=
             tolerance * std::max(1.0, std::abs(found.loss_reference)));
}

}  // namespace

BOOST_AUTO_TEST_SUITE(gradcache_property)

/// Random architectures, cuts, types, losses and options: the number of a case is its seed.
BOOST_DATA_TEST_CASE(cached_equals_direct, boost::unit_test::data::xrange(600), seed) {
  const RandomStep c(static_cast<std::uint64_t>(seed));
  begin_random_step(static_cast<std::uint64_t>(seed), 3);
  const Comparison found = compare(c.towers, c.loss, c.options);
  check_alike(found, c.options.reproducible_block > 0 ? 0 : c.tolerance());
  begin_random_step(static_cast<std::uint64_t>(seed), 3);
  direct_step(c.towers, c.loss, c.options.direct());
  const RandomState after = random_state();
  begin_random_step(static_cast<std::uint64_t>(seed), 3);
  const StepResult cached = cached_step(c.towers, c.loss, c.options);
  BOOST_TEST((random_state() == after));
  BOOST_TEST((cached.status == StepStatus::kDone));
}

/// The same batches, emitted by a loader in parts.
BOOST_DATA_TEST_CASE(functional_form_equals_direct, boost::unit_test::data::xrange(300), seed) {
  RandomStep c(static_cast<std::uint64_t>(seed));
  c.options.reproducible_block = 0;  // which is for chunks of a tower
  c.options.autocast = DType::kFloat32;
  const auto by_parts = [&] {
    Dice dice(static_cast<std::uint64_t>(seed) + 1000);
    std::vector<CachedBatch> batches;
    for (std::size_t t = 0; t < c.inputs.size(); ++t) {
      const auto& [samples, encoder] = c.inputs[t];
      CachedBatch& batch = batches.emplace_back(CachedBatch{c.towers[t].name(), {}});
      for (const Tensor& part : cut_at_random(dice, samples)) {
        CachedOptions options;
        options.check_recompute = c.options.check_recompute;
        if (!batch.chunks.empty()) options.after = &batch.chunks.back();
        batch.chunks.push_back(cached(encoder, part, options));
      }
    }
    return cached_backward(batches, c.loss, {.scale = c.options.scale});
  };
  begin_random_step(static_cast<std::uint64_t>(seed), 3);
  std::vector<Parameter> parameters = direct_step(c.towers, c.loss, c.options.direct()).parameters;
  for (Parameter& p : parameters) p.clear_gradient();
  const RandomState after = random_state();
  begin_random_step(static_cast<std::uint64_t>(seed), 3);
  const StepResult result = by_parts();
  BOOST_TEST((random_state() == after));
  BOOST_TEST((result.status == StepStatus::kDone));
  for (Parameter& p : parameters) p.clear_gradient();
  begin_random_step(static_cast<std::uint64_t>(seed), 3);
  const Comparison found =
      compare_steps([&] { return direct_step(c.towers, c.loss, c.options.direct()); }, by_parts, parameters);
  check_alike(found, c.tolerance());
}

BOOST_AUTO_TEST_SUITE_END()
