#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "tapecache/autograd/buffer.h"

namespace tapecache::train {

struct EmaOptions {
  double decay = 0.999;  ///< how much of the average stays in an update
  bool warm_up = true;   ///< at first less does: (1 + n) / (10 + n) after n updates, where that is below `decay`
};

/// Exponential moving average of parameters and buffers (Polyak & Juditsky 1992), which is often the better model.
class Ema {
 public:
  /// Begins with what they are now. Throws ValueError unless 0 <= decay < 1, and where two have one name; OutOfMemory.
  explicit Ema(std::span<const Parameter> parameters, const EmaOptions& options = {},
               std::span<const Buffer> buffers = {});

  /// To be called after each step of the optimiser. Throws OutOfMemory, and then nothing is changed.
  void update();
  std::int64_t updates() const;

  /// The averages, `ema.NAME`, and how many updates they are of: tensors of its own, which `save_checkpoint` and
  /// `load_checkpoint` take among the buffers. On resuming the same bits follow.
  const std::vector<Buffer>& state() const { return state_; }

  /// The averages in the place of what parameters and buffers are, which they are again at the end of the scope,
  /// however that is left. Parameters must not be trained or saved in a checkpoint meanwhile.
  class [[nodiscard]] Scope : public detail::OfOneScope {
   public:
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    friend class Ema;
    explicit Scope(const Ema& ema);
    std::vector<Tensor> live_, own_;
  };
  /// Throws OutOfMemory, and then nothing is changed.
  Scope use() const { return Scope(*this); }

 private:
  EmaOptions options_;
  std::vector<Tensor> live_;   // of parameters and buffers
  std::vector<Buffer> state_;  // their averages in that order, then the count
};

}  // namespace tapecache::train
