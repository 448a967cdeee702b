#include "tapecache/gradcache/segments.h"

#include <algorithm>
#include <bit>
#include <utility>

#include <fmt/format.h>

namespace tapecache::gradcache::detail {

namespace {

/// a + b; either may be undefined.
Tensor sum_of(Tensor a, const Tensor& b) {
  if (!a.defined()) return b;
  if (b.defined()) a.accumulate(b);
  return a;
}

}  // namespace

void check_segments(const char* step, std::int64_t count, bool shared_loss) {
  if (count > 0 && shared_loss) {
    throw ValueError(fmt::format(
        "{}: {} reproducible segments with a shared loss, whose sums depend on how many ranks take it; leave "
        "one of reproducible_segments and shared_loss out",
        step, count));
  }
  if (count == 0 || (count > 0 && count <= 1024 && std::has_single_bit(static_cast<std::uint64_t>(count)))) return;
  throw ValueError(
      fmt::format("{}: {} reproducible segments, expected a power of two up to 1024, or 0 for none", step, count));
}

void check_shares(const char* step, const Segments& segments, const Ranks& ranks) {
  if (!segments.any()) return;
  for (std::size_t t = 0; t < ranks.shares().size(); ++t) {
    const Share& share = ranks.shares()[t];
    const auto size = static_cast<std::int64_t>(share.counts.size());
    if (share.total < segments.count) {
      throw ValueError(
          fmt::format("{}: tower {} has {} samples, expected at least one for each of {} reproducible segments", step,
                      t, share.total, segments.count));
    }
    if (segments.count % size != 0) {
      throw ValueError(
          fmt::format("{}: {} ranks cannot share {} reproducible segments evenly", step, size, segments.count));
    }
    const std::int64_t each = segments.count / size;
    std::int64_t end = 0;
    for (std::int64_t r = 0; r < size; ++r) {
      const std::int64_t first = std::exchange(end, end + share.counts[static_cast<std::size_t>(r)]);
      const std::int64_t expected = segments.begin(share.total, (r + 1) * each);
      if (end == expected) continue;
      throw ValueError(
          fmt::format("{}: rank {} has samples [{}, {}) of tower {}, expected up to {}: {} of {} reproducible segments",
                      step, r, first, end, t, expected, each, segments.count));
    }
  }
}

namespace {

Chunks segments_of(const char* step, const Segments& segments, const Tower& tower, const Chunks& chunks,
                   const Share& share) {
  const auto segment_of = [&](std::int64_t sample) { return segments.of(share.total, share.first + sample); };
  if (!chunks.order.empty()) {
    throw ValueError(
        fmt::format("{}: chunks by tokens cannot be reproducible, whose segments are in batch order", step));
  }
  if (!tower.own_chunks().empty()) {
    for (const Chunk& chunk : chunks.parts) {
      if (segment_of(chunk.begin) == segment_of(chunk.end - 1)) continue;
      throw ValueError(fmt::format("{}: the chunk of samples [{}, {}) of tower '{}' lies in two reproducible segments",
                                   step, chunk.begin, chunk.end, tower.name()));
    }
    return chunks;
  }
  Chunks cut;
  const std::int64_t last = segment_of(share.own - 1);
  for (std::int64_t s = segment_of(0); s <= last; ++s) {
    const std::int64_t begin = segments.begin(share.total, s) - share.first,
                       end = segments.begin(share.total, s + 1) - share.first;
    for (const Chunk& part : cut_by_count(end - begin, chunks.largest()).parts) {
      cut.parts.push_back({begin + part.begin, begin + part.end});
    }
  }
  return cut;
}

}  // namespace

void cut_in_segments(const char* step, const Segments& segments, std::span<const Tower> towers,
                     std::span<const Share> shares, std::vector<Chunks>& chunks) {
  for (std::size_t t = 0; t < towers.size(); ++t) {
    chunks[t] = segments_of(step, segments, towers[t], chunks[t], shares[t]);
  }
}

std::vector<Tensor> take_gradients(std::span<Parameter> parameters) {
  std::vector<Tensor> gradients;
  for (Parameter& p : parameters) gradients.push_back(std::exchange(p.mutable_gradient(), Tensor()));
  return gradients;
}

void add_gradients(std::span<Parameter> parameters, std::vector<Tensor> gradients) {
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    Tensor& gradient = parameters[i].mutable_gradient();
    gradient = sum_of(std::move(gradient), gradients[i]);
  }
}

void GradientTree::end_segment() {
  Part part{0, take_gradients(parameters_)};
  while (!parts_.empty() && parts_.back().level == part.level) {
    for (std::size_t i = 0; i < part.gradients.size(); ++i) {
      part.gradients[i] = sum_of(std::move(part.gradients[i]), parts_.back().gradients[i]);
    }
    ++part.level;
    parts_.pop_back();
  }
  parts_.push_back(std::move(part));
}

void GradientTree::finish(const Parameter& parameter) {
  const auto found = std::find(parameters_.begin(), parameters_.end(), parameter);
  const auto i = static_cast<std::size_t>(found - parameters_.begin());
  Tensor& sum = found->mutable_gradient();
  for (auto part = parts_.rbegin(); part != parts_.rend(); ++part) {
    sum = sum_of(std::move(sum), std::exchange(part->gradients[i], Tensor()));
  }
}

}  // namespace tapecache::gradcache::detail
