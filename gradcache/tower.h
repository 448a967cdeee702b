#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "tapecache/gradcache/encoded.h"
#include "tapecache/gradcache/splittable.h"

namespace tapecache::gradcache {

/// One side of a contrastive step: a name for messages, the batch, and the encoder that turns samples into
/// representations. `encode(samples)` returns what `Encoded` says, with axis 0 over those samples, and must treat
/// every sample by itself. A std::tuple of inputs is handed over as so many arguments. Several towers may share an
/// encoder.
class Tower {
 public:
  template <Splittable Input, class Encode>
  Tower(std::string name, Input input, Encode encode)
      : name_(std::move(name)), size_(detail::sample_count(input)), lengths_(detail::lengths_of(input)) {
    const auto batch = std::make_shared<const Input>(std::move(input));
    version_ = [batch] { return detail::version_of(*batch); };
    encode_range_ = [batch, encode](std::int64_t begin, std::int64_t end) {
      return call(encode, detail::slice_samples(*batch, begin, end));
    };
    if constexpr (detail::has_lengths<Input>()) {
      encode_selected_ = [batch, encode](std::span<const std::int64_t> samples) {
        return call(encode, detail::select_samples(*batch, samples));
      };
    }
  }

  /// A tower whose batch the caller has cut already, into parts of any size: the step keeps these cuts. The parts
  /// need only a number of samples. Throws ValueError for no parts or an empty one.
  template <class Input, class Encode>
  static Tower from_chunks(std::string name, std::vector<Input> chunks, Encode encode) {
    std::vector<std::int64_t> sizes;
    for (const Input& chunk : chunks) sizes.push_back(detail::sample_count(chunk));
    Tower tower(std::move(name), std::move(sizes));
    const auto batch = std::make_shared<const std::vector<Input>>(std::move(chunks));
    tower.version_ = [batch] {
      std::uint64_t sum = 0;
      for (const Input& chunk : *batch) sum += detail::version_of(chunk);
      return sum;
    };
    tower.encode_chunk_ = [batch, encode](std::size_t chunk) { return call(encode, batch->at(chunk)); };
    return tower;
  }

  const std::string& name() const { return name_; }
  /// Samples in the batch.
  std::int64_t size() const { return size_; }
  /// What each sample costs (tokens), where the input tells by `lengths()`; else empty.
  const std::vector<std::int64_t>& lengths() const { return lengths_; }
  /// Sizes of the chunks that the caller made; empty where the step is free to cut.
  const std::vector<std::int64_t>& own_chunks() const { return own_chunks_; }
  /// Changes when the input does, as far as its type tells.
  std::uint64_t version() const { return version_(); }

  /// The tower over its first `count` samples alone. Throws ValueError outside [1, size] and for a tower from chunks.
  Tower first(std::int64_t count) const;

  /// Encodes samples [begin, end), recorded on the active tape. The samples' global indices enter the random state
  /// for the time of the call. Throws ShapeError naming the tower where axis 0 of an output is not end - begin.
  Encoded encode(std::int64_t begin, std::int64_t end) const;
  /// The same for samples in any order, of a tower with lengths.
  Encoded encode(std::span<const std::int64_t> samples) const;

 private:
  Tower(std::string name, std::vector<std::int64_t> own_chunks);

  template <class Encode, class Input>
  static Encoded call(const Encode& encode, const Input& input) {
    if constexpr (detail::IsTuple<Input>::value) return detail::as_encoded(std::apply(encode, input));
    else return detail::as_encoded(encode(input));
  }

  Encoded checked(Encoded encoded, std::int64_t samples, const std::string& which) const;

  std::string name_;
  std::int64_t size_;
  std::vector<std::int64_t> lengths_, own_chunks_;
  std::function<std::uint64_t()> version_;
  std::function<Encoded(std::int64_t, std::int64_t)> encode_range_;
  std::function<Encoded(std::span<const std::int64_t>)> encode_selected_;
  std::function<Encoded(std::size_t)> encode_chunk_;
};

}  // namespace tapecache::gradcache
