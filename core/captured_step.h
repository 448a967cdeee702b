#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "tapecache/core/device.h"

namespace tapecache {

/// A step of work, always of the same shapes, that a CUDA device is given many times: recorded once as a CUDA graph, it
/// is then replayed, which takes the host next to no time however many kernels it has. The first replay does the step
/// as it is, the second records it and the later ones repeat what was recorded; each is one step. On the CPU each calls
/// the function.
///
///   Tensor rate = Tensor::zeros({}, DType::kFloat64, device);
///   StepResult result;
///   CapturedStep step(device, [&] {
///     result = gradcache::cached_step(towers, loss, {.cut = {64}, .deferred = true, .device = device});
///     optimizer.step(rate, 1, result.non_finite);
///     optimizer.clear_gradients();
///   });
///   for (std::uint32_t t = 0; t < steps; ++t) {
///     images.copy_from(next_images());
///     rate.fill(train::warmup_cosine(t, warmup, steps, peak));
///     step.replay(t);
///   }
///
/// What is recorded is what the device is given. So the function must not wait for it (`item`, a copy to the host),
/// which throws DeviceError, and whatever else the host does, or reads of its own memory, stays as it was when the step
/// was recorded: numbers, choices, tensors of the host. What changes between replays must be in tensors of the device
/// that live as long as this does, and are filled or copied to in place (`copy_from`, `copy_from_async`): inputs, a
/// learning rate. A replay comes after all copies that were asked for before it. The step number of random draws comes
/// from there by itself.
///
/// Page-locked memory (Tensor::pinned) is the exception. What the function copies from and to it (`to`, `to_async`,
/// `copy_from_async`, towers that upload, representations that are off-loaded) each replay copies anew, from what is
/// there then, and into the same place. That memory is kept for as long as this exists, and knows of replays as of
/// other copies: whoever reads what one leaves there, or writes to what one copies from, first waits for that replay.
/// So a batch is refilled by `batch.copy_from(next)` as soon as `replay` has returned, and is where it was; only who
/// kept a pointer asks for it anew before writing (`mutable_data`). Within the function, both throw DeviceError, and so
/// does a copy beside the computing from ordinary memory, of which a replay could not see what is there then.
///
/// Blocks that the step allocates are its own (`MemoryPool`) until it is destroyed. Results that the function leaves in
/// tensors, gradients among them, are at fixed places; they are of the last replay.
class CapturedStep {
 public:
  /// Random draws are by `seed` and the step number given to `replay`. Throws ValueError for an empty function.
  CapturedStep(Device device, std::function<void()> step, std::uint64_t seed = 0);
  /// Waits for the last replay.
  ~CapturedStep();
  CapturedStep(const CapturedStep&) = delete;
  CapturedStep& operator=(const CapturedStep&) = delete;

  /// Does the step, as after `begin_random_step(seed, random_step)`. Throws what the function throws, and DeviceError
  /// where the step cannot be recorded: then it was not done, and what tensors it assigned to are without values.
  void replay(std::uint32_t random_step);

  /// Whether the step was recorded.
  bool captured() const;
  /// Whether this thread is recording a step.
  static bool is_capturing();
  /// How many recorded steps have been replayed, of all. They change memory whose version stays as it is.
  static std::uint64_t replays();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace tapecache
