#pragma once

#include <cstdint>
#include <optional>

#include "tapecache/core/tensor.h"

/// What contrastive losses can be told, in tiles or not.
namespace tapecache::ops {

/// Samples a tile of logits is wide and high. What is not given is as the device works best.
struct TileOptions {
  std::optional<std::int64_t> rows = {}, columns = {};
};

/// Which targets of a contrastive loss are the same, so that they are no negatives of each other's queries: all that
/// equal a query's positive are left out of its denominator, hard negatives too; the positive stays. Ids, i32 or i64 of
/// any numbers, are copied to the device of the representations. All targets differ where nothing is given.
struct EqualTargets {
  /// [targets]: targets of one id are the same. Where every sample is a pair, one id for it.
  Tensor target_ids = {};
  /// [queries]: queries of one id are the same, and so have each other's positives, which are left out.
  Tensor query_ids = {};
  /// In the place of ids: targets are the same where their representations are, bit by bit, and their masks. Where both
  /// sides are each other's targets, as images and texts are, this is of both. Dropout makes equal samples differ: then
  /// give ids.
  bool equal_rows = false;

  bool some() const { return target_ids.defined() || query_ids.defined() || equal_rows; }
};

}  // namespace tapecache::ops
