#include "tapecache/losses/shared_alike.h"

#include <algorithm>
#include <numeric>

#include <fmt/format.h>

#include "tapecache/ops/layout.h"

namespace tapecache::losses::detail {

namespace {

const std::vector<std::string> kLosses{"info_nce", "clip_loss", "siglip_loss", "gist_loss",
                                       "nt_xent",  "sup_con",   "maxsim_loss"};

std::int64_t sum(const std::vector<std::int64_t>& counts) {
  return std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
}

}  // namespace

const char* name(SharedLoss loss) { return kLosses[static_cast<std::size_t>(loss)].c_str(); }

InCommon of_loss(SharedLoss loss) { return named("loss", static_cast<std::int64_t>(loss), kLosses); }

InCommon of_type(const char* what, DType dtype) {
  return {what, static_cast<std::int64_t>(dtype),
          [](std::int64_t number) { return std::string(tapecache::name(static_cast<DType>(number))); }};
}

InCommon of_scalar(const char* what, const Variable& scalar) {
  return real(what, scalar.defined() && scalar.device().is_cpu() ? scalar.value().item() : 0.0);
}

InCommon of_equal_targets(const ops::EqualTargets& equal) {
  const std::int64_t given =
      equal.equal_rows ? 4 : (equal.target_ids.defined() ? 1 : 0) + (equal.query_ids.defined() ? 2 : 0);
  return named("kind of equal_targets", given, {"none", "target_ids", "query_ids", "ids of both", "equal_rows"});
}

InCommon of_candidates(SharedCandidates candidates) {
  return named("way of candidates", static_cast<std::int64_t>(candidates), {"kAutomatic", "kGathered", "kRing"});
}

InCommon of_recording(bool recorded) { return named("recording", recorded, {"none", "one for backward"}); }

bool in_ring(const distributed::Communicator& ranks, SharedCandidates candidates, const Brought& brought,
             std::int64_t rows, const Variable& like) {
  constexpr int kFewest = 4;
  if (candidates != SharedCandidates::kAutomatic) return candidates == SharedCandidates::kRing;
  if (ranks.size() < kFewest || brought.limit == 0) return false;
  const auto elements = static_cast<std::size_t>(like.shape().with(0, rows).numel());
  return 2 * elements * size_of(like.dtype()) > brought.limit / 2;
}

std::int64_t targets_of_each(const char* loss, const Brought& brought, const char* queries, const char* targets,
                             bool several) {
  const std::int64_t count = sum(brought.queries);
  if (count == 0) throw ShapeError(fmt::format("{}: no rank has {}, expected some", loss, queries));
  const std::int64_t step = several ? std::max<std::int64_t>(1, sum(brought.targets) / count) : 1;
  for (std::size_t r = 0; r < brought.queries.size(); ++r) {
    if (brought.targets[r] == brought.queries[r] * step) continue;
    throw ShapeError(fmt::format("{}: rank {} has {} {} for {} {}, expected {} for each", loss, r, brought.targets[r],
                                 targets, brought.queries[r], queries, step));
  }
  return step;
}

Variable positives_of(const Variable& targets, std::int64_t queries, std::int64_t step) {
  if (step == 1) return targets;
  const Shape one = targets.shape().with(0, queries);
  const std::int64_t elements = targets.shape().product(1, targets.rank());
  return ops::reshape(ops::slice(ops::reshape(targets, {queries, step, elements}), 1, 0, 1), one);
}

}  // namespace tapecache::losses::detail
