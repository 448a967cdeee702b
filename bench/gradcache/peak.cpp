#include <chrono>

#include "measurements.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/core/device.h"
#include "tapecache/losses/losses.h"
#include "tapecache/ops/normalize.h"
#include "workload.h"

namespace gradcache_bench {

using namespace tapecache;
using namespace tapecache::gradcache;
using namespace tapecache::losses;

std::vector<Peak> measure_peaks(const Effort& effort) {
  std::vector<Peak> peaks;
  for (std::int64_t batch = 64; batch <= effort.largest_batch; batch *= 4) {
    Workload workload(batch);
    const std::size_t before = Device::cpu().memory_stats().current;
    const Loss loss = [&](std::span<const Variable> r) {
      return clip_loss(r[1], r[0],
                       {.scale = Scale::from_log(workload.clip.logit_scale()), .tiles = ops::TileOptions{}});
    };
    const StepResult result = cached_step(workload.towers(), loss, {{32}});
    workload.clear_gradients();
    std::size_t data = before;
    for (const Tensor& r : result.representations) data += 2 * r.bytes();
    peaks.push_back({batch, result.peak_bytes, result.peak_bytes - data});
    Device::cpu().release_memory_cache();
  }
  return peaks;
}

TiledLoss measure_tiled_loss(std::int64_t batch) {
  constexpr std::int64_t kWidth = 512;
  Device::cpu().release_memory_cache();
  const std::size_t before = Device::cpu().memory_stats().current;
  const PeakMeter meter;
  const auto rows = [&](std::uint32_t state) {
    Tensor t = Tensor::empty({batch, kWidth});
    float* p = t.mutable_data<float>();
    for (std::int64_t i = 0; i < t.numel(); ++i) {
      p[i] = (static_cast<float>((state = state * 1664525u + 1013904223u) >> 8) * 0x1p-23f - 1.0f) * 0.07f;
    }
    return t;
  };
  Tape tape;
  const Variable images = tape.leaf(rows(1)), texts = tape.leaf(rows(2));
  const Variable log_scale = tape.leaf(Tensor::full({}, 2.0));
  const auto begin = std::chrono::steady_clock::now();
  Variable loss;
  {
    const Recording recording(tape);
    loss = clip_loss(images, texts, {.scale = Scale::from_log(log_scale), .tiles = ops::TileOptions{}});
  }
  tape.backward(loss);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return {batch, kWidth, meter.peak() - before, seconds, loss.value().item()};
}

}  // namespace gradcache_bench
