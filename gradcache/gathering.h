#pragma once

#include <span>
#include <vector>

#include "tapecache/gradcache/ranks.h"
#include "tapecache/gradcache/side.h"

#pragma GCC visibility push(hidden)

namespace tapecache::gradcache::detail {

/// What sides give over the samples of all ranks: of several ranks alone.
class Gathering {
 public:
  /// `step` is for messages. With `shared_loss` ranks keep their representations to themselves.
  Gathering(const char* step, Ranks& ranks, bool shared_loss) : step_(step), ranks_(ranks), shared_(shared_loss) {}

  /// For what `exchange` will bring, before it is known whether all ranks have got so far.
  void make_room(std::span<const Side> sides);
  /// What every rank must have found alike, before the exchange.
  Account account(std::span<const Side> sides, std::span<const Parameter> of_encoders) const;
  /// The one exchange of a step's forward.
  void exchange();

  /// Each output of a side; of this rank's samples where the loss is shared.
  const std::vector<Tensor>& representations(std::size_t side) const { return sides_[side].representations; }
  std::span<const AuxiliaryLoss> auxiliary(std::size_t side) const { return sides_[side].auxiliary; }
  /// The samples that these representations are of.
  Chunk samples(std::size_t side) const;
  /// Of the caches of a side: the other ranks have the rest.
  void keep_own_rows(std::size_t side, std::vector<Tensor>& caches) const;

 private:
  struct Gathered {
    std::vector<Tensor> own;  // of this rank, until they are gathered
    std::vector<Tensor> representations;
    std::vector<AuxiliaryLoss> auxiliary;
  };

  const char* step_;
  Ranks& ranks_;
  bool shared_;
  std::vector<Gathered> sides_;
};

}  // namespace tapecache::gradcache::detail

#pragma GCC visibility pop
