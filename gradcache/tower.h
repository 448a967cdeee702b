#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "tapecache/core/error.h"
#include "tapecache/gradcache/splittable.h"

namespace tapecache::gradcache {

namespace detail {
template <class F>
bool is_empty_function(const F&) {
  return false;
}
template <class Result, class... Arguments>
bool is_empty_function(const std::function<Result(Arguments...)>& f) {
  return !f;
}

/// `sample_count`, whose error names the tower.
template <class Input>
std::int64_t samples_of_tower(const std::string& tower, const Input& input) {
  try {
    return sample_count(input);
  } catch (const ShapeError& error) {
    throw ShapeError("tower '" + tower + "': " + error.what());
  }
}
}  // namespace detail

/// One side of a contrastive step: a name for messages, the batch, and the encoder that turns samples into
/// representations. `encode(samples)` returns what `Encoded` says, with axis 0 over those samples, and must treat
/// every sample by itself; outputs are f32 or f64, and beside such ones integers. A std::tuple of inputs is handed over
/// as so many arguments. Several towers may share an encoder.
class Tower {
 public:
  /// Throws ShapeError for an input without an axis of samples, or inputs of different sizes, and ValueError for an
  /// empty std::function.
  template <Splittable Input, class Encode>
  Tower(std::string name, Input input, Encode encoder)
      : name_(std::move(name)), size_(detail::samples_of_tower(name_, input)), lengths_(detail::lengths_of(input)) {
    const auto batch = std::make_shared<const Input>(std::move(input));
    version_ = [batch] { return detail::version_of(*batch); };
    take_range_ = [batch](std::int64_t begin, std::int64_t end) {
      return std::make_shared<const Input>(detail::slice_samples(*batch, begin, end));
    };
    if constexpr (detail::has_lengths<Input>()) {
      take_selected_ = [batch](std::span<const std::int64_t> samples) {
        return std::make_shared<const Input>(detail::select_samples(*batch, samples));
      };
    }
    set_encoder<Input>(std::move(encoder));
  }

  /// A tower whose batch the caller has cut already, into parts of any size: the step keeps these cuts. The parts
  /// need only a number of samples. Throws ValueError for no parts or an empty one, and for an empty std::function.
  template <class Input, class Encode>
  static Tower from_chunks(std::string name, std::vector<Input> chunks, Encode encoder) {
    std::vector<std::int64_t> sizes;
    for (const Input& chunk : chunks) sizes.push_back(detail::samples_of_tower(name, chunk));
    Tower tower(std::move(name), std::move(sizes));
    const auto batch = std::make_shared<const std::vector<Input>>(std::move(chunks));
    tower.version_ = [batch] {
      std::uint64_t sum = 0;
      for (const Input& chunk : *batch) sum += detail::version_of(chunk);
      return sum;
    };
    tower.take_chunk_ = [batch](std::size_t chunk) { return Samples(batch, &batch->at(chunk)); };
    tower.set_encoder<Input>(std::move(encoder));
    return tower;
  }

  /// The tower with its batch left where it is, in the host's memory: each chunk is copied to `device` for its forward.
  /// The cached step copies a chunk while the device computes the one before, without a detour where the batch is in
  /// page-locked memory (Tensor::pinned). In a captured step it must be there, and replays upload what is there then.
  /// Throws ValueError for an input type that does not say how it is copied (see Splittable).
  Tower upload_to(Device device) const;
  bool uploads() const { return device_.has_value(); }

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

  /// Samples of the batch as the encoder takes them, on the device where the tower uploads.
  using Samples = std::shared_ptr<const void>;
  /// Samples [begin, end), or, of a tower with lengths, samples in any order. Copies beside what the device computes.
  Samples take(std::int64_t begin, std::int64_t end) const;
  Samples take(std::span<const std::int64_t> samples) const;

  /// Encodes samples [begin, end), recorded on the active tape; `taken` is what take() gave for them. The samples'
  /// global indices enter the random state for the time of the call. Throws ShapeError naming the tower where axis 0 of
  /// an output is not end - begin.
  Encoded encode(std::int64_t begin, std::int64_t end, const Samples& taken) const;
  Encoded encode(std::int64_t begin, std::int64_t end) const { return encode(begin, end, take(begin, end)); }
  /// The same for samples in any order, of a tower with lengths.
  Encoded encode(std::span<const std::int64_t> samples, const Samples& taken) const;
  Encoded encode(std::span<const std::int64_t> samples) const { return encode(samples, take(samples)); }

 private:
  Tower(std::string name, std::vector<std::int64_t> own_chunks);

  template <class Encode, class Input>
  static Encoded call(const Encode& encoder, const Input& input) {
    if constexpr (detail::IsTuple<Input>::value) return detail::as_encoded(std::apply(encoder, input));
    else return detail::as_encoded(encoder(input));
  }

  template <class Input, class Encode>
  void set_encoder(Encode encoder) {
    if (detail::is_empty_function(encoder)) throw_no_encoder();
    encode_ = [encoder = std::move(encoder)](const void* samples) {
      return call(encoder, *static_cast<const Input*>(samples));
    };
    if constexpr (detail::can_upload<Input>()) {
      shows_tensors_ = detail::shows_tensors<Input>();
      upload_ = [](const void* samples, Device device) {
        return std::make_shared<const Input>(detail::upload_samples(*static_cast<const Input*>(samples), device));
      };
    }
  }

  [[noreturn]] void throw_no_encoder() const;
  Samples uploaded(Samples samples) const;
  Encoded encode_in_view(std::int64_t first, std::int64_t count, Tensor ids, const Samples& taken,
                         const std::string& which) const;
  Encoded checked(Encoded encoded, std::int64_t samples, const std::string& which) const;

  std::string name_;
  std::int64_t size_;
  std::vector<std::int64_t> lengths_, own_chunks_;
  std::function<std::uint64_t()> version_;
  std::optional<Device> device_;  // that chunks are uploaded to
  std::function<Samples(std::int64_t, std::int64_t)> take_range_;
  std::function<Samples(std::span<const std::int64_t>)> take_selected_;
  std::function<Samples(std::size_t)> take_chunk_;
  std::function<Samples(const void*, Device)> upload_;
  bool shows_tensors_ = false;
  std::function<Encoded(const void*)> encode_;
};

}  // namespace tapecache::gradcache
