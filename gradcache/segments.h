#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "tapecache/autograd/variable.h"
#include "tapecache/gradcache/chunks.h"
#include "tapecache/gradcache/ranks.h"

#pragma GCC visibility push(hidden)

/// Sums over samples in an order that does not depend on who has the samples. Private to gradcache.
namespace tapecache::gradcache::detail {

/// A batch in parts, as even as can be, each of which one rank has as a whole.
struct Segments {
  std::int64_t count = 0;  // a power of two; 0: none

  bool any() const { return count > 0; }
  std::int64_t begin(std::int64_t total, std::int64_t segment) const { return total * segment / count; }
  /// The segment that has a sample of the whole batch.
  std::int64_t of(std::int64_t total, std::int64_t sample) const { return ((sample + 1) * count - 1) / total; }
};

/// Throws ValueError for a count that is no power of two, or above 1,024.
void check_segments(const char* step, std::int64_t count, bool shared_loss);
/// Throws ValueError where a tower has fewer samples than segments, or where a rank does not have as many whole
/// segments as each other. Finds the same on every rank.
void check_shares(const char* step, const Segments& segments, const Ranks& ranks);
/// Cuts the towers' chunks so that no one has samples of two segments: each segment is cut by itself, into chunks as
/// large as those it is given. Throws ValueError for chunks of the caller's that do not fit, or that are ordered by
/// length.
void cut_in_segments(const char* step, const Segments& segments, std::span<const Tower> towers,
                     std::span<const Share> shares, std::vector<Chunks>& chunks);

/// Adds the gradients of 2^n segments, which come one after the other, as a binary tree does.
class GradientTree {
 public:
  explicit GradientTree(std::vector<Parameter> parameters) : parameters_(std::move(parameters)) {}

  /// Takes the parameters' gradients, which are those of one segment, but for the last.
  void end_segment();
  /// Of a parameter that has its gradient of the last segment: gives it the sum.
  void finish(const Parameter& parameter);

 private:
  struct Part {
    int level = 0;  // it is the sum of 2^level segments
    std::vector<Tensor> gradients;
  };

  std::vector<Parameter> parameters_;
  std::vector<Part> parts_;
};

/// The parameters' gradients, which they then have no more.
std::vector<Tensor> take_gradients(std::span<Parameter> parameters);
/// Adds to them, as far as there is something to add.
void add_gradients(std::span<Parameter> parameters, std::vector<Tensor> gradients);

}  // namespace tapecache::gradcache::detail

#pragma GCC visibility pop
