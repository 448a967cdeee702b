#pragma once

#include <cstdint>

#include <nlohmann/json.hpp>

#include "../train_step/workloads.h"

/// Where a step's time goes: its parts alone, at the sizes that the step has them in. Each part is queued several times
/// and then waited for. Its figures:
///
///   forward, backward     "seconds"; "host_seconds" until all was queued: where they are as large, the host is what
///                         is waited for; "flops" of its products; "least_bytes", of what it must read and write if
///                         each tensor is touched once; and the shares of the ceilings that these make
namespace bench_gpu {

struct Ceilings {
  double flops = 0;  ///< of bf16 products, a second
  double bytes = 0;  ///< read and written, a second
};

struct BlockSize {
  std::int64_t samples, tokens, width, heads;
  bool causal = false;
};

/// The parts of one transformer block in bf16, as the model calls them, and the products and passes over memory that
/// those consist of, alone.
nlohmann::ordered_json block_costs(const BlockSize& size, const Ceilings& ceilings);

/// Both towers on one chunk, the loss over a batch, the update of all weights; "whole_step_seconds" is what a cached
/// step without kept tapes would take if it took no more than these.
nlohmann::ordered_json model_costs(train_step::ClipSize size, std::int64_t batch, std::int64_t chunk,
                                   const Ceilings& ceilings);

/// The blocks of both towers of a model, for a chunk: {image, text}.
std::pair<BlockSize, BlockSize> block_sizes(train_step::ClipSize size, std::int64_t chunk);

}  // namespace bench_gpu
