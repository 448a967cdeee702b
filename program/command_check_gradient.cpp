#include "command_check_gradient.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "pair_batches.h"
#include "parameter_groups.h"
#include "tapecache/core/error.h"
#include "tapecache/core/random.h"
#include "tapecache/gradcache/grad_cache.h"

namespace tapecache::program {

namespace {

struct Group {
  std::int64_t tensors = 0;
  double absolute = 0, relative = 0;
};

/// The larger, NaN if one is NaN.
double larger(double a, double b) { return a >= b || a != a ? a : b; }

}  // namespace

int run_check_gradient(const CheckGradientCommand& command) {
  const PairsFile pairs(command.pairs, command.columns);
  TextModelOptions options = command.model.text_model();
  options.merge = false;  // an adapter is what is trained
  const TextModel model(command.model.folder, options);
  const Prefixes prefixes = command.prefixes.of(model);
  LossOptions chosen = command.loss;
  chosen.name = loss_name(chosen, pairs.images());
  const TrainingLoss loss(chosen, model, pairs.hard_negatives());
  std::optional<ImageEncoder> encoder;
  if (pairs.images()) encoder.emplace(model.model(), command.model.images);
  const ImageEncoder* const images = encoder ? &*encoder : nullptr;
  std::vector<std::int64_t> rows(static_cast<std::size_t>(std::min(command.samples, pairs.size())));
  std::iota(rows.begin(), rows.end(), 0);
  const PairBatch batch = PairBatches(pairs, model, prefixes, images).batch(rows);
  model.model().set_training(true);
  begin_random_step(command.seed, 0);
  const gradcache::Comparison found =
      gradcache::compare(towers_of(batch, model, images), loss.of(batch, prefixes, command.model.embed()),
                         {.cut = {command.chunk}, .autocast = command.model.autocast()});

  std::vector<std::string> order;
  std::map<std::string, Group> groups;
  for (const auto& p : found.parameters) {
    const std::string name = group_of(p.name);
    if (!groups.contains(name)) order.push_back(name);
    Group& group = groups[name];
    ++group.tensors;
    group.absolute = larger(group.absolute, p.max_absolute);
    group.relative = larger(group.relative, p.max_relative);
  }
  fmt::print("{} pairs in chunks of {}, loss {}: direct {:.8g}, cached {:.8g}\n\n", batch.size(), command.chunk,
             chosen.name, found.loss_reference, found.loss_other);
  fmt::print("{:<40} {:>8} {:>14} {:>14}\n", "parameters", "tensors", "max |c - d|", "over max |d|");
  for (const std::string& name : order) {
    const Group& g = groups[name];
    fmt::print("{:<40} {:>8} {:>14.2e} {:>14.2e}\n", name, g.tensors, g.absolute, g.relative);
  }
  const double tolerance = command.model.gradient_tolerance();
  const bool equal = found.relative_norm <= tolerance;
  fmt::print("\n|c - d| / |d| over all: {:.2e}, {} {:.0e}: {}\n", found.relative_norm, equal ? "at most" : "more than",
             tolerance, equal ? "equal to rounding" : "NOT EQUAL");
  std::fflush(stdout);
  return equal ? kDone : kFailed;
}

}  // namespace tapecache::program
