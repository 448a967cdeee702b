#include "tapecache/gradcache/tower.h"

#include <numeric>
#include <utility>

#include <fmt/format.h>

#include "tapecache/core/captured_step.h"
#include "tapecache/core/device_backend.h"
#include "tapecache/core/element.h"
#include "tapecache/core/forward_context.h"

namespace tapecache::gradcache {

namespace detail {

void throw_uneven_inputs(std::int64_t first, std::int64_t other, std::size_t position) {
  throw ShapeError(
      fmt::format("tower: input 0 has {} samples, input {} has {}, expected equal numbers", first, position, other));
}

Tensor select_rows(const Tensor& tensor, std::span<const std::int64_t> rows) {
  const auto count = static_cast<std::int64_t>(rows.size());
  const Shape shape = tensor.shape().with(0, count);
  Tensor selected = tensor.is_pinned() ? Tensor::empty_pinned(shape, tensor.dtype())
                                       : Tensor::empty(shape, tensor.dtype(), tensor.device());
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t row = rows[static_cast<std::size_t>(i)];
    selected.slice(i, i + 1).copy_from(tensor.slice(row, row + 1));
  }
  return selected;
}

}  // namespace detail

Tower::Tower(std::string name, std::vector<std::int64_t> own_chunks)
    : name_(std::move(name)),
      size_(std::accumulate(own_chunks.begin(), own_chunks.end(), std::int64_t{0})),
      own_chunks_(std::move(own_chunks)) {
  if (own_chunks_.empty()) throw ValueError(fmt::format("tower '{}': no chunks, expected at least one", name_));
  for (std::size_t i = 0; i < own_chunks_.size(); ++i) {
    if (own_chunks_[i] < 1) throw ValueError(fmt::format("tower '{}': chunk {} has no samples", name_, i));
  }
}

Tower Tower::first(std::int64_t count) const {
  if (count < 1 || count > size_ || !own_chunks_.empty()) {
    throw ValueError(fmt::format(
        "tower '{}': first {} samples asked for, expected 1 to {} of a tower that the step cuts", name_, count, size_));
  }
  Tower part = *this;
  part.size_ = count;
  if (!part.lengths_.empty()) part.lengths_.resize(static_cast<std::size_t>(count));
  return part;
}

Encoded Tower::checked(Encoded encoded, std::int64_t samples, const std::string& which) const {
  const auto fail = [&](const std::string& what, const std::string& expected) {
    return fmt::format("tower '{}': the encoder returned {} for {}, expected {}", name_, what, which, expected);
  };
  if (encoded.outputs.empty()) throw ShapeError(fail("no output", "at least one"));
  for (const Encoded::Output& output : encoded.outputs) {
    const Variable& value = output.value;
    const std::string named = output.name.empty() ? "" : fmt::format("'{}', ", output.name);
    if (!value.defined() || value.rank() == 0 || value.size(0) != samples) {
      throw ShapeError(fail(named + describe(value.value()), fmt::format("{} rows", samples)));
    }
    if (is_low_precision(value.dtype())) throw DTypeError(fail(named + describe(value.value()), "float32 or float64"));
    if (!is_floating(value.dtype()) && encoded.outputs.size() == 1) {
      throw DTypeError(fail(named + describe(value.value()), "float32 or float64"));
    }
  }
  for (const AuxiliaryLoss& loss : encoded.auxiliary) {
    if (!loss.values.defined() || loss.values.shape() != Shape{samples} || !is_floating(loss.values.dtype())) {
      throw ShapeError(fail(fmt::format("auxiliary loss '{}', {},", loss.name, describe(loss.values.value())),
                            fmt::format("one value for each of {} samples", samples)));
    }
  }
  return encoded;
}

Tower Tower::upload_to(Device device) const {
  if (!upload_) {
    throw ValueError(
        fmt::format("tower '{}': its input has neither map_tensors(change) nor to(device), by which its chunks "
                    "could be copied to {}",
                    name_, to_string(device)));
  }
  backend_of(device).devices.require("upload_to", device.index);
  Tower tower = *this;
  tower.device_ = device;
  return tower;
}

void Tower::throw_no_encoder() const {
  throw ValueError(fmt::format("tower '{}': the encoder is an empty function", name_));
}

Tower::Samples Tower::uploaded(Samples samples) const {
  if (!device_) return samples;
  if (!shows_tensors_ && CapturedStep::is_capturing()) {
    throw ValueError(
        fmt::format("tower '{}': its input has no map_tensors(change), so that a captured step does not know what "
                    "its replays are to upload",
                    name_));
  }
  return upload_(samples.get(), *device_);
}

Tower::Samples Tower::take(std::int64_t begin, std::int64_t end) const {
  if (!take_chunk_) return uploaded(take_range_(begin, end));
  std::size_t chunk = 0;
  std::int64_t at = 0;
  while (chunk < own_chunks_.size() && at < begin) at += own_chunks_[chunk++];
  if (at != begin || chunk == own_chunks_.size() || begin + own_chunks_[chunk] != end) {
    throw ValueError(
        fmt::format("tower '{}': samples [{}, {}) are no chunk of those that it was made from", name_, begin, end));
  }
  return uploaded(take_chunk_(chunk));
}

Tower::Samples Tower::take(std::span<const std::int64_t> samples) const {
  if (!take_selected_) {
    throw ValueError(fmt::format("tower '{}': its samples have no lengths to be ordered by", name_));
  }
  return uploaded(take_selected_(samples));
}

/// Shows the encoder which samples it sees; the random stream itself goes on.
Encoded Tower::encode_in_view(std::int64_t first, std::int64_t count, Tensor ids, const Samples& taken,
                              const std::string& which) const {
  ForwardContext& context = forward_context();
  const ScopedValue first_sample(context.random.first_sample, context.random.first_sample + first);
  const ScopedValue samples(context.random.samples, count);
  const ScopedValue sample_ids(context.random.sample_ids, std::move(ids));
  const ScopedValue partial(context.partial_batch, context.partial_batch || count < size_);
  return checked(encode_(taken.get()), count, which);
}

Encoded Tower::encode(std::int64_t begin, std::int64_t end, const Samples& taken) const {
  return encode_in_view(begin, end - begin, {}, taken, fmt::format("samples [{}, {})", begin, end));
}

Encoded Tower::encode(std::span<const std::int64_t> samples, const Samples& taken) const {
  const auto count = static_cast<std::int64_t>(samples.size());
  Tensor ids = Tensor::from(samples, {count});
  for (std::int64_t i = 0; i < count; ++i) ids.mutable_data<std::int64_t>()[i] += random_state().first_sample;
  return encode_in_view(0, count, std::move(ids), taken, fmt::format("{} samples ordered by length", count));
}

}  // namespace tapecache::gradcache
