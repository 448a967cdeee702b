#include "tapecache/gradcache/gathering.h"

#include <utility>

#include <fmt/format.h>

#include "tapecache/core/random.h"

namespace tapecache::gradcache::detail {

void Gathering::make_room(std::span<const Side> sides) {
  sides_.clear();
  for (std::size_t s = 0; s < sides.size(); ++s) {
    const auto over_all = [&](const Tensor& own) {
      return Tensor::empty(own.shape().with(0, ranks_.shares()[s].total), own.dtype(), own.device());
    };
    Gathered side{representations_of(step_, sides[s]), {}, auxiliary_of(sides[s])};
    if (shared_) {
      side.representations = std::exchange(side.own, {});
    } else {
      for (const Tensor& own : side.own) side.representations.push_back(over_all(own));
    }
    for (AuxiliaryLoss& loss : side.auxiliary) {
      side.own.push_back(loss.values.value());
      loss.values = over_all(loss.values.value());
    }
    sides_.push_back(std::move(side));
  }
}

Account Gathering::account(std::span<const Side> sides, std::span<const Parameter> of_encoders) const {
  const auto row = [](const Tensor& rows) {
    return fmt::format("{} {}", name(rows.dtype()), to_string(rows.shape().without(0)));
  };
  std::string text;
  for (std::size_t s = 0; s < sides_.size(); ++s) {
    const std::vector<std::string> names = names_of(sides[s]);
    for (std::size_t i = 0; i < names.size(); ++i) {
      text += fmt::format("representations of '{}', {} a sample\n", names[i], row(sides_[s].representations[i]));
    }
    for (const AuxiliaryLoss& loss : sides_[s].auxiliary) {
      text += fmt::format("auxiliary loss '{}' of '{}', {}, of weight {}\n", loss.name, sides[s].name,
                          name(loss.values.dtype()), loss.weight);
    }
  }
  for (const Parameter& p : of_encoders) {
    text += fmt::format("parameter '{}' of an encoder, {} {}\n", p.name(), name(p.value().dtype()),
                        to_string(p.value().shape()));
  }
  return {text + fmt::format("{} random draws made", random_state().key.call)};
}

void Gathering::exchange() {
  for (std::size_t s = 0; s < sides_.size(); ++s) {
    Gathered& side = sides_[s];
    const Share& share = ranks_.shares()[s];
    std::size_t next = 0;
    if (!shared_) {
      for (Tensor& all : side.representations) ranks_.gather(side.own[next++], all, share);
    }
    for (AuxiliaryLoss& loss : side.auxiliary) {
      Tensor all = loss.values.value();
      ranks_.gather(side.own[next++], all, share);
    }
    side.own.clear();
  }
}

Chunk Gathering::samples(std::size_t side) const {
  const Share& share = ranks_.shares()[side];
  return shared_ ? Chunk{share.first, share.first + share.own} : Chunk{0, share.total};
}

void Gathering::keep_own_rows(std::size_t side, std::vector<Tensor>& caches) const {
  if (shared_) return;
  const Share& share = ranks_.shares()[side];
  for (Tensor& cache : caches) {
    if (cache.defined()) cache = cache.slice(share.first, share.first + share.own).clone();
  }
}

}  // namespace tapecache::gradcache::detail
