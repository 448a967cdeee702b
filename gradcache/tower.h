#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>

#include "tapecache/autograd/variable.h"
#include "tapecache/gradcache/splittable.h"

namespace tapecache::gradcache {

/// One side of a contrastive step: a name for messages, the batch, and the encoder that turns samples into
/// representations. `encode(samples)` returns a Variable whose axis 0 runs over those samples, and must treat every
/// sample by itself. Several towers may share an encoder.
class Tower {
 public:
  template <Splittable Input, class Encode>
  Tower(std::string name, Input input, Encode encode)
      : name_(std::move(name)), size_(sample_count(input)) {
    encode_ = [input = std::move(input), encode = std::move(encode)](std::int64_t begin, std::int64_t end) {
      return Variable(encode(Input(input.slice(begin, end))));
    };
  }

  const std::string& name() const { return name_; }
  /// Samples in the batch.
  std::int64_t size() const { return size_; }

  /// Representations of samples [begin, end), recorded on the active tape. The samples' global indices enter the
  /// random state for the time of the call. Throws ShapeError naming the tower where axis 0 is not end - begin.
  Variable encode(std::int64_t begin, std::int64_t end) const;

 private:
  std::string name_;
  std::int64_t size_;
  std::function<Variable(std::int64_t, std::int64_t)> encode_;
};

}  // namespace tapecache::gradcache
