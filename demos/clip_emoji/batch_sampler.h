#pragma once

#include <cstdint>
#include <vector>

namespace clip_emoji {

/// Draws batches of distinct items: every epoch is a shuffle by (seed, epoch), cut into batches; a rest too small
/// for a batch is left out. The same seed gives the same batches on every machine.
class BatchSampler {
 public:
  /// Throws ValueError unless 1 <= batch <= items.
  BatchSampler(std::int64_t items, std::int64_t batch, std::uint64_t seed);

  std::vector<std::int64_t> next();

 private:
  void shuffle();

  std::int64_t batch_;
  std::uint64_t seed_;
  std::uint32_t epoch_ = 0;
  std::size_t position_ = 0;
  std::vector<std::int64_t> order_;
};

}  // namespace clip_emoji
