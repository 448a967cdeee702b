#pragma once

#include "tapecache/autograd/operand_cache.h"
#include "tapecache/autograd/variable.h"
#include "tapecache/core/element.h"
#include "tapecache/core/error.h"
#include "tapecache/ops/kernels/table.h"

#pragma GCC visibility push(hidden)

/// Weights that are packed once for all chunks of a cached step, in place of once a product. Products have the same
/// bits.
namespace tapecache::ops::detail {

/// Rows of a product beyond which packing costs nothing beside it: each packed element is used once a row.
inline constexpr std::int64_t kMaxRowsOfPacked = 2048;

/// The right factor of a product with a weight: packed, which `g` then says, where an `OperandCache` with room for it
/// is in force on the CPU; else the weight. `of_parameter` says whether it is a parameter's present value; where nobody
/// knows, as in backward, it is one if it was packed in the forward of this pass.
inline Tensor packed_weight(const char* op, const Tensor& weight, bool of_parameter, kernels::Gemm& g) {
  OperandCache* cache = OperandCache::current();
  if (!cache || !weight.device().is_cpu() || is_low_precision(weight.dtype())) return weight;
  if (g.m > kMaxRowsOfPacked || g.n == 0 || g.k == 0) return weight;
  Tensor packed = cache->find_packed(weight, g.transpose_b);
  if (!packed.defined()) {
    if (!of_parameter && !cache->find_packed(weight, true).defined()) return weight;
    const bool made = dispatch_floating(op, weight.dtype(), [&]<class T>() {
      const auto& products = *std::get<const kernels::GemmKernels<T>*>(kernels::cpu_table());
      const std::int64_t elements = products.packed_elements(g.n, g.k);
      const std::size_t bytes = static_cast<std::size_t>(elements) * sizeof(T);
      if (!cache->has_room_for_packed(bytes)) return false;
      try {
        packed = Tensor::empty({elements}, weight.dtype());
      } catch (const OutOfMemory&) {
        return false;  // it is done without
      }
      products.pack_factor(g, weight.data<T>(), packed.mutable_data<T>());
      return true;
    });
    if (!made) return weight;
    cache->keep_packed(weight, g.transpose_b, packed);
  }
  g.packed_b = true;
  return packed;
}

}  // namespace tapecache::ops::detail

#pragma GCC visibility pop
