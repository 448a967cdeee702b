#pragma once

#include "tapecache/losses/losses.h"

#pragma GCC visibility push(hidden)

/// The contrastive losses where each rank computes its own rows of the logits. Private to losses.
namespace tapecache::losses::detail {

Variable info_nce_shared(const Variable& queries, const Variable& targets, const InfoNceOptions& options);
Variable clip_loss_shared(const Variable& images, const Variable& texts, const ClipOptions& options);
Variable siglip_loss_shared(const Variable& images, const Variable& texts, const SiglipOptions& options);

}  // namespace tapecache::losses::detail

#pragma GCC visibility pop
