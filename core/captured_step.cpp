#include "tapecache/core/captured_step.h"

#include <atomic>
#include <optional>
#include <utility>
#include <vector>

#include "tapecache/core/device_backend.h"
#include "tapecache/core/error.h"
#include "tapecache/core/forward_context.h"
#include "tapecache/core/graph_copies.h"
#include "tapecache/core/memory_pool.h"
#include "tapecache/core/random.h"
#include "tapecache/core/tensor.h"
#include "tapecache/core/thread_context.h"

namespace tapecache {

using detail::GraphCopies;
using detail::Storage;

namespace {

std::atomic<std::uint64_t> replays_so_far = 0;

/// Captures what this thread gives a device, until `end`.
class Capture {
 public:
  Capture(const DeviceBackend::Graphs& graphs, int device)
      : graphs_(graphs), device_(device), current_(begun(graphs, device), &copies_) {}
  ~Capture() {
    if (!ended_) graphs_.cancel(device_);
  }
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;

  DeviceBackend::Graph* end() {
    ended_ = true;
    return graphs_.end(device_);
  }
  const GraphCopies& copies() const { return copies_; }

 private:
  /// Begins, and returns what then refers to the copies of the capture.
  static GraphCopies*& begun(const DeviceBackend::Graphs& graphs, int device) {
    if (CapturedStep::is_capturing()) throw Error("captured step: captured within another one");
    graphs.begin(device);
    return detail::thread_context.copies;
  }

  const DeviceBackend::Graphs& graphs_;
  int device_;
  GraphCopies copies_;
  ScopedValue<GraphCopies*> current_;
  bool ended_ = false;
};

}  // namespace

// Hidden as what it holds is.
struct [[gnu::visibility("hidden")]] CapturedStep::State {
  Device device;
  std::function<void()> step;
  std::uint64_t seed = 0;
  Tensor random_step;  // i64 on the device, of which kernels read the lower half
  std::optional<MemoryPool> pool;
  const DeviceBackend::Graphs* graphs = nullptr;  // of the device; null: nothing is captured there
  DeviceBackend::Graph* graph = nullptr;
  std::vector<GraphCopies::HostMemory> host;  // that the graph copies from and into
  RandomState after;                          // the step, when it was captured
  bool done_before = false;

  const std::uint32_t* step_on_device() const {
    return random_step.defined() ? reinterpret_cast<const std::uint32_t*>(random_step.raw()) : nullptr;
  }

  /// Calls the function; its draws read the step number from the device.
  void run(std::uint32_t number) {
    begin_random_step(seed, number);
    const ScopedValue on_device(random_state().key.step.on_device, step_on_device());
    step();
  }

  void capture(std::uint32_t number) {
    pool.emplace(device);
    try {
      const auto scope = pool->use();
      Capture captured(*graphs, device.index);
      run(number);
      host = captured.copies().host_memory();
      graph = captured.end();
    } catch (...) {
      host.clear();
      pool.reset();
      throw;
    }
    after = random_state();
  }

  /// What the graph copies from is as it was asked for before, and whoever uses it next waits for the replay.
  void launch() {
    for (const GraphCopies::HostMemory& memory : host) memory.storage->begin_replay(device.index);
    graphs->launch(device.index, graph);
    if (host.empty()) return;
    const detail::CopyEvent end = backend_of(device).events.end_of_work(device.index);
    for (const auto& [storage, written] : host) {
      storage->end_replay(device.index, written ? Storage::Use::kWrite : Storage::Use::kRead, end);
    }
  }
};

CapturedStep::CapturedStep(Device device, std::function<void()> step, std::uint64_t seed)
    : state_(std::make_unique<State>()) {
  if (!step) throw ValueError("captured step: the step is an empty function");
  state_->device = device;
  state_->step = std::move(step);
  state_->seed = seed;
  state_->graphs = backend_of(device).graphs;
  if (state_->graphs) state_->random_step = Tensor::zeros({}, DType::kInt64, device);
}

CapturedStep::~CapturedStep() {
  if (state_->graph) state_->graphs->destroy(state_->device.index, state_->graph);
}

void CapturedStep::replay(std::uint32_t random_step) {
  State& state = *state_;
  if (is_capturing()) throw Error("captured step: replayed while a step is captured");
  if (state.random_step.defined()) state.random_step.fill(random_step);
  if (!state.graphs || !state.done_before) {
    state.run(random_step);
    state.done_before = true;
    return;
  }
  if (!state.graph) state.capture(random_step);
  ++replays_so_far;
  state.launch();
  random_state() = state.after;
  random_state().key.step = random_step;
}

bool CapturedStep::captured() const { return state_->graph != nullptr; }

bool CapturedStep::is_capturing() { return GraphCopies::current() != nullptr; }

std::uint64_t CapturedStep::replays() { return replays_so_far; }

}  // namespace tapecache
