#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tapecache/gradcache/tower_run.h"

#pragma GCC visibility push(hidden)

namespace tapecache::gradcache::detail {

/// A tower as the loss sees it: one run over its whole batch, or the sub-batches that were forwarded one by one.
struct Side {
  std::string name;
  std::vector<std::shared_ptr<TowerRun>> runs;
};

/// Of a chunk.
struct Place {
  std::size_t side, run, chunk;
};

/// One side a tower.
std::vector<Side> sides_of(std::span<const Tower> towers, std::vector<Chunks> chunks, const ForwardOptions& options);

/// Of all chunks, as they are forwarded.
std::vector<Place> places_of(std::span<const Side> sides);
/// Its run's chunks, or its sub-batches.
Chunks chunks_of(const Side& side);
/// Of its outputs, under the side's own name: a sub-batch's tower has another.
std::vector<std::string> names_of(const Side& side);
/// Each output over all that was forwarded here, where the encoder leaves it. Throws ShapeError, naming the step, where
/// sub-batches do not fit.
std::vector<Tensor> representations_of(const char* step, const Side& side);
/// Each auxiliary loss of all samples that were forwarded here.
std::vector<AuxiliaryLoss> auxiliary_of(const Side& side);
/// Unfrozen parameters that its encoder reads, in the order that it first reads them in.
std::vector<Parameter> parameters_of(const Side& side);

}  // namespace tapecache::gradcache::detail

#pragma GCC visibility pop
