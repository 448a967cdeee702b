#include "tapecache/gradcache/step.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "tapecache/autograd/tape.h"
#include "tapecache/core/allocator.h"
#include "tapecache/core/device.h"
#include "tapecache/core/forward_context.h"
#include "tapecache/gradcache/chunks.h"
#include "tapecache/gradcache/encoded_parts.h"
#include "tapecache/gradcache/gradient_transaction.h"
#include "tapecache/gradcache/plan_shares.h"
#include "tapecache/gradcache/step_checks.h"

namespace tapecache::gradcache {

namespace {

constexpr std::int64_t kSmallProbe = 8, kLargeProbe = 32;
constexpr double kMargin = 0.97;      // of a budget that a plan makes use of: block sizes are rounded up
constexpr double kChunkShare = 0.25;  // of what is left, for the work on one chunk: the rest is for kept tapes

/// What a number of units (samples, or samples times their longest) costs, in bytes.
struct Line {
  double fixed = 0, per_unit = 0;
  double at(double units) const { return fixed + per_unit * units; }
  /// Most units that `bytes` hold.
  double within(double bytes) const { return per_unit > 0 ? (bytes - fixed) / per_unit : bytes < fixed ? 0 : 1e18; }
};

struct Measured {
  double units = 0, held = 0, peak = 0;
  double output_bytes = 0;  // representations of one sample
};

struct TowerCost {
  Line held, peak;          // bytes: of a recorded forward; of that with its backward
  double output_bytes = 0;  // representations of one sample
};

/// On the CPU the option changes nothing.
bool offloads(const StepOptions& options) { return options.offload && !options.device.is_cpu(); }

double units_of(const Tower& tower, const Chunks& chunks, const Chunk& chunk) {
  if (tower.lengths().empty()) return static_cast<double>(chunk.size());
  std::int64_t longest = 1;
  for (std::int64_t i = chunk.begin; i < chunk.end; ++i) {
    const std::int64_t sample = chunks.order.empty() ? i : chunks.order[static_cast<std::size_t>(i)];
    longest = std::max(longest, tower.lengths()[static_cast<std::size_t>(sample)]);
  }
  return static_cast<double>(chunk.size() * longest);
}

/// Forward and backward of one chunk with a cotangent of zeros, undone afterwards.
Measured probe(const Tower& tower, const Chunks& chunks, const Chunk& chunk, const StepOptions& options) {
  Allocator& memory = allocator(options.device);
  const PeakMeter meter(options.device);
  GradientTransaction undone;
  const auto tried = Parameter::no_hooks();
  const ScopedValue no_trace(forward_context(), forward_context().repeated());
  const Autocast autocast(detail::encoder_precision(options.autocast));
  const auto in_use = [&] { return static_cast<double>(memory.stats().current); };
  const auto before = in_use();
  // Beside the chunk at work: the input of the next one, and what the step off-loads of it.
  Tower::Samples next;
  if (tower.uploads()) {
    next = chunks.order.empty() ? tower.take(chunk.begin, chunk.end) : tower.take(chunks.samples(chunk));
  }
  const double beside = in_use() - before;
  Tape tape;
  Encoded encoded;
  {
    const Recording recording(tape);
    encoded = chunks.order.empty() ? tower.encode(chunk.begin, chunk.end) : tower.encode(chunks.samples(chunk));
  }
  Measured measured{.units = units_of(tower, chunks, chunk)};
  undone.add(detail::parameters_on(tape));
  undone.add(detail::parameters_themselves(encoded));
  measured.held = tape.nodes().empty() ? 0 : in_use() - before - beside;
  std::vector<Variable> outputs;
  std::vector<Tensor> zeros, next_rows;
  for (const Encoded::Output& output : encoded.outputs) {
    measured.output_bytes += static_cast<double>(output.value.value().bytes()) / static_cast<double>(chunk.size());
    if (!output.value.has_history()) continue;
    if (offloads(options)) next_rows.push_back(output.value.value().clone());
    outputs.push_back(output.value);
    zeros.push_back(Tensor::zeros(output.value.shape(), output.value.dtype(), output.value.device()));
  }
  if (!outputs.empty()) inject(tape, outputs, zeros);
  measured.peak = static_cast<double>(meter.peak()) - before;
  return measured;
}

Line through(double x0, double y0, double x1, double y1) {
  if (x1 <= x0) return {0, y0 / x0};
  const double slope = std::max(0.0, (y1 - y0) / (x1 - x0));
  return {std::max(0.0, y0 - slope * x0), slope};
}

TowerCost measure(const Tower& tower, const Chunks& order, const StepOptions& options) {
  TowerCost cost;
  const auto run = [&](const Chunk& chunk) -> std::optional<Measured> {
    try {
      return probe(tower, order, chunk, options);
    } catch (const OutOfMemory&) {
      return {};
    }
  };
  // Of ordered samples the last are the longest. Chunks that the caller made cannot be probed in part.
  const auto last = [&](std::int64_t count) {
    return Chunk{tower.size() - std::min(count, tower.size()), tower.size()};
  };
  const bool given = !tower.own_chunks().empty();
  const auto by_size = [](const Chunk& a, const Chunk& b) { return a.size() < b.size(); };
  const Chunk small = given ? *std::min_element(order.parts.begin(), order.parts.end(), by_size) : last(kSmallProbe);
  const Chunk large = given ? *std::max_element(order.parts.begin(), order.parts.end(), by_size) : last(kLargeProbe);
  std::optional<Measured> a = run(small), b = a && large.size() > small.size() ? run(large) : a;
  if (!a && !given) a = b = run(last(1));
  if (!a) {
    const Device::MemoryStats stats = allocator(options.device).stats();
    throw OutOfMemory(fmt::format("memory budget: {} bytes do not hold the work on one chunk of tower '{}' beside the "
                                  "{} in use",
                                  stats.limit, tower.name(), stats.current),
                      0, stats.current, stats.limit);
  }
  if (!b) b = a;
  cost.output_bytes = b->output_bytes;
  cost.held = through(a->units, a->held, b->units, b->held);
  cost.peak = through(a->units, a->peak, b->units, b->peak);
  return cost;
}

/// As many samples as the share of a chunk allows, in whole units, or, where that is not even one, as the whole does.
std::int64_t chunk_size_for(const Tower& tower, const TowerCost& cost, double available, std::int64_t longest,
                            const StepOptions& options) {
  constexpr std::int64_t kWholeRows = 8;  // what kernels like
  const std::int64_t unit = options.reproducible_block > 0 ? options.reproducible_block : kWholeRows;
  const auto samples = [&](double bytes) {
    return static_cast<std::int64_t>(std::min(cost.peak.within(bytes) / static_cast<double>(longest), 1e15));
  };
  std::int64_t size = samples(kChunkShare * available);
  if (size < unit) size = std::min(samples(available), unit);
  size = std::min(std::max(size, detail::chunk_unit(options.reproducible_block)), tower.size());
  if (size > unit && size < tower.size()) size -= size % unit;
  return size;
}

}  // namespace

MemoryPlan plan_memory(std::span<const Tower> towers, const StepOptions& options) {
  return detail::of_group(options.communicator, [&] {
    return *detail::plan_in_group(towers, options, [&] {
      if (!std::holds_alternative<MemoryBudget>(options.cut)) {
        throw ValueError("plan_memory: the cut is none by a MemoryBudget");
      }
    });
  });
}

namespace detail {

std::optional<MemoryPlan> plan_in_group(std::span<const Tower> towers, const StepOptions& options,
                                        const std::function<void()>& check) {
  const auto* const budget = std::get_if<MemoryBudget>(&options.cut);
  Ranks ranks("plan_memory", options.communicator);
  ranks.open([&] {
    if (check) check();
    check_step("plan_memory", towers, options.reproducible_block, options.scale, ranks.several());
    check_precision("plan_memory", options.autocast);
    if (budget) check_budget("plan_memory", *budget);
    return StepStart{shares_of(towers)};
  });
  std::optional<MemoryPlan> plan;
  ranks.together([&] {
    if (budget) plan = plan_shares(towers, ranks.shares(), options);
  });
  return plan;
}

MemoryPlan plan_shares(std::span<const Tower> towers, std::span<const Share> shares, const StepOptions& options) {
  const auto* const budget = &std::get<MemoryBudget>(options.cut);
  const MemoryLimit within(budget->bytes, options.device);
  const NoRecording outside_tape;
  MemoryPlan plan{.chunk_tokens = budget->chunk_tokens, .bytes = budget->bytes};
  std::vector<TowerCost> costs;
  double available =
      kMargin * static_cast<double>(budget->bytes) - static_cast<double>(allocator(options.device).stats().current);
  double representations = 0;  // with their gradients
  for (std::size_t t = 0; t < towers.size(); ++t) {
    const Tower& tower = towers[t];
    if (tower.size() == 0) {
      costs.emplace_back();
      continue;
    }
    Chunks order;
    if (!tower.own_chunks().empty()) order = cut_as_given(tower.own_chunks());
    else if (!tower.lengths().empty()) order = cut_by_cost(tower.lengths(), 1);
    costs.push_back(measure(tower, order, options));
    // A shared loss leaves each rank its own, and takes what it needs of the others' as memory allows.
    const std::int64_t samples = options.shared_loss ? tower.size() : shares[t].total;
    representations += 2 * costs.back().output_bytes * static_cast<double>(samples);
  }
  // They stay for the whole step, or are there for the loss, when there is no work on a chunk.
  if (!offloads(options)) available -= std::exchange(representations, 0);
  for (std::size_t i = 0; i < towers.size(); ++i) {
    const Tower& tower = towers[i];
    const bool given =
        tower.size() == 0 || !tower.own_chunks().empty() || (plan.chunk_tokens > 0 && !tower.lengths().empty());
    const std::int64_t longest =
        tower.lengths().empty()
            ? 1
            : std::max<std::int64_t>(1, *std::max_element(tower.lengths().begin(), tower.lengths().end()));
    plan.chunk_sizes.push_back(given ? 0 : chunk_size_for(tower, costs[i], available, longest, options));
  }
  const std::vector<Chunks> chunks =
      cut_towers("plan_memory", towers, plan, options.reproducible_block, options.offload);
  double held = 0, work = 0;
  for (std::size_t t = towers.size(); t-- > 0;) {
    if (towers[t].size() == 0) continue;
    for (std::size_t c = chunks[t].parts.size(); c-- > 0;) {
      const double units = units_of(towers[t], chunks[t], chunks[t].parts[c]);
      held += costs[t].held.at(units);
      work = std::max(work, costs[t].peak.at(units) - costs[t].held.at(units));
      if (held + std::max(work, representations) > available) return plan;
      ++plan.kept_chunks;
    }
  }
  return plan;
}

}  // namespace detail

}  // namespace tapecache::gradcache
