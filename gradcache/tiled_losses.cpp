#include "tapecache/gradcache/tiled_losses.h"

#include <cmath>
#include <limits>

#include "tapecache/gradcache/losses.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/maxsim.h"

namespace tapecache::gradcache {

using kernels::ContrastiveOp;

Variable tiled_info_nce(const Variable& queries, const Variable& targets, const Variable& scale,
                        const TileOptions& tile, const EqualTargets& equal) {
  return ops::contrastive_loss(ContrastiveOp::kRows, queries, targets, scale, {}, tile, equal);
}

Variable tiled_info_nce(const Variable& queries, const Variable& targets, double scale, const TileOptions& tile,
                        const EqualTargets& equal) {
  const Variable factor(Tensor::full({}, scale, queries.dtype(), queries.device()));
  return tiled_info_nce(queries, targets, factor, tile, equal);
}

Variable tiled_clip_loss(const Variable& images, const Variable& texts, const Variable& log_scale,
                         const TileOptions& tile, const EqualTargets& equal) {
  const Variable scale =
      ops::exp(ops::clamp(log_scale, -std::numeric_limits<double>::infinity(), std::log(kMaxLogitScale)));
  return ops::contrastive_loss(ContrastiveOp::kRowsAndColumns, images, texts, scale, {}, tile, equal);
}

Variable tiled_siglip_loss(const Variable& images, const Variable& texts, const Variable& log_scale,
                           const Variable& bias, const TileOptions& tile, const EqualTargets& equal) {
  return ops::contrastive_loss(ContrastiveOp::kSigmoid, images, texts, ops::exp(log_scale), bias, tile, equal);
}

Variable tiled_maxsim_loss(const Variable& queries, const Tensor& query_mask, const Variable& documents,
                           const Tensor& document_mask, const Variable& scale, const TileOptions& tile,
                           const EqualTargets& equal) {
  return ops::maxsim_loss(queries, query_mask, documents, document_mask, scale, tile, equal);
}

}  // namespace tapecache::gradcache
