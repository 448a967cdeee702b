#pragma once

#include "tapecache/losses/losses.h"

#pragma GCC visibility push(hidden)

/// The losses of losses.h where each rank computes its own rows of the logits. Private to losses.
namespace tapecache::losses::detail {

Variable info_nce_shared(const Variable& queries, const Variable& targets, const InfoNceOptions& options);
Variable clip_loss_shared(const Variable& images, const Variable& texts, const ClipOptions& options);
Variable siglip_loss_shared(const Variable& images, const Variable& texts, const SiglipOptions& options);
Variable gist_loss_shared(const Variable& queries, const Variable& targets, const Tensor& guide_queries,
                          const Tensor& guide_targets, const GistOptions& options);
Variable nt_xent_shared(const Variable& a, const Variable& b, const NtXentOptions& options);
Variable sup_con_shared(const Variable& representations, const Tensor& labels, const SupConOptions& options);
Variable maxsim_loss_shared(const Variable& queries, const Tensor& query_mask, const Variable& documents,
                            const Tensor& document_mask, const MaxsimOptions& options);

}  // namespace tapecache::losses::detail

#pragma GCC visibility pop
