#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "tapecache/core/device.h"

namespace tapecache {

/// A step that is run many times with the same shapes on a CUDA device. It is captured once as a CUDA graph and then
/// replayed, which costs the host almost nothing however many kernels it has. The first call of `replay` runs the
/// function directly, the second captures it, and later ones replay the capture; each is one step. On the CPU, each
/// call runs the function.
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
/// Only work given to the device is captured. The function must not wait for the device (`item`, a copy to the host);
/// that throws DeviceError. Whatever the host computes or reads from its own memory is frozen at its value during the
/// capture: numbers, branches, host tensors. Everything that changes between replays (inputs, a learning rate) must be
/// in device tensors that outlive this object and are updated in place (`fill`, `copy_from`, `copy_from_async`). A
/// replay runs after all copies requested before it. The step number of random draws is updated automatically.
///
/// Page-locked host memory (Tensor::pinned) is an exception: each replay repeats the function's copies from and to it
/// (`to`, `to_async`, `copy_from_async`, towers that upload, offloaded representations), reading what is there at that
/// time and writing to the same place. The memory is kept while this object exists. Reading what a replay writes there,
/// or writing to what it reads, first waits for that replay, as for any other copy. So `batch.copy_from(next)` may
/// refill a batch as soon as `replay` has returned; a program that keeps a raw pointer must call `mutable_data` again
/// before writing. Within the function such host accesses throw DeviceError, and so does an asynchronous copy from
/// pageable memory, since a replay could not see its later contents.
///
/// Memory that the step allocates belongs to it until it is destroyed. Results that the function assigns to tensors,
/// gradients included, stay at fixed addresses and hold the values of the last replay.
class CapturedStep {
 public:
  /// Random draws depend on `seed` and the step number passed to `replay`. Throws ValueError for an empty function.
  CapturedStep(Device device, std::function<void()> step, std::uint64_t seed = 0);
  /// Waits for the last replay.
  ~CapturedStep();
  CapturedStep(const CapturedStep&) = delete;
  CapturedStep& operator=(const CapturedStep&) = delete;

  /// Runs one step, as after `begin_random_step(seed, random_step)`. Throws what the function throws, and DeviceError
  /// if the step cannot be captured: it was not run then, and tensors that it assigned to have no values.
  void replay(std::uint32_t random_step);

  /// Whether the step was captured.
  bool captured() const;
  /// Whether this thread is capturing a step.
  static bool is_capturing();
  /// Number of replays of captured steps so far, of all objects. A replay changes memory without changing its version.
  static std::uint64_t replays();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace tapecache
