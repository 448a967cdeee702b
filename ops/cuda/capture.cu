#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tapecache/core/device_backend.h"
#include "tapecache/core/error.h"
#include "tapecache/core/op_scope.h"
#include "tapecache/ops/cuda/capture.h"
#include "tapecache/ops/cuda/status.h"
#include "tapecache/ops/cuda/stream.h"

namespace tapecache {

namespace kernels::cuda {

namespace {

/// Pinned host memory that is written once.
class PinnedCopies {
 public:
  PinnedCopies() = default;
  PinnedCopies(const PinnedCopies&) = delete;
  PinnedCopies& operator=(const PinnedCopies&) = delete;
  ~PinnedCopies() {
    for (void* block : blocks_) cudaFreeHost(block);
  }

  const void* add(const void* from, std::size_t bytes) {
    constexpr std::size_t kBlock = 1 << 20, kAlignment = 256;
    const std::size_t room = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    if (room > left_) {
      const std::size_t size = std::max(room, kBlock);
      blocks_.push_back(nullptr);
      check(cudaHostAlloc(&blocks_.back(), size, cudaHostAllocDefault), "allocating pinned memory");
      next_ = static_cast<std::byte*>(blocks_.back());
      left_ = size;
    }
    std::memcpy(next_, from, bytes);
    const void* copy = next_;
    next_ += room;
    left_ -= room;
    return copy;
  }

 private:
  std::vector<void*> blocks_;
  std::byte* next_ = nullptr;
  std::size_t left_ = 0;
};

/// A capture of this thread: a stream of its own, so that no other thread's work gets into it.
struct Capture {
  cudaStream_t stream = nullptr;
  std::optional<StreamScope> scope;
  std::unique_ptr<PinnedCopies> copies = std::make_unique<PinnedCopies>();

  Capture() = default;
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;
  ~Capture() {
    scope.reset();
    if (stream) cudaStreamDestroy(stream);
  }
};

thread_local std::unique_ptr<Capture> capture;

}  // namespace

bool is_recording() { return capture != nullptr; }

void require_no_capture(const char* what) {
  if (!capture) return;
  const char* op = OpScope::current() ? OpScope::current() : "copy to the host";
  throw DeviceError(std::string(op) + ": " + what + ", which a captured step may not");
}

const void* lasting(const void* host_bytes, std::size_t bytes) {
  return capture && bytes > 0 ? capture->copies->add(host_bytes, bytes) : host_bytes;
}

}  // namespace kernels::cuda

namespace device_backend {

using namespace kernels::cuda;

struct Graph {
  cudaGraphExec_t exec = nullptr;
  std::unique_ptr<PinnedCopies> copies;
};

void begin_capture(int device) {
  select_device(device);
  auto begun = std::make_unique<Capture>();
  check(cudaStreamCreateWithFlags(&begun->stream, cudaStreamNonBlocking), "making a stream");
  // Relaxed, for memory is allocated meanwhile; what must not be done is refused by require_no_capture.
  check(cudaStreamBeginCapture(begun->stream, cudaStreamCaptureModeRelaxed), "beginning to record a step");
  begun->scope.emplace(begun->stream);
  capture = std::move(begun);
}

Graph* end_capture(int device) {
  select_device(device);
  const std::unique_ptr<Capture> ended = std::move(capture);
  cudaGraph_t recorded = nullptr;
  check(cudaStreamEndCapture(ended->stream, &recorded), "recording a step");
  auto graph = std::make_unique<Graph>();
  const cudaError_t status = cudaGraphInstantiate(&graph->exec, recorded, 0);
  cudaGraphDestroy(recorded);
  check(status, "making a recorded step ready");
  graph->copies = std::move(ended->copies);
  return graph.release();
}

void cancel_capture(int) noexcept {
  const std::unique_ptr<Capture> ended = std::move(capture);
  if (!ended) return;
  cudaGraph_t recorded = nullptr;
  cudaStreamEndCapture(ended->stream, &recorded);
  if (recorded) cudaGraphDestroy(recorded);
  cudaGetLastError();
}

void launch_graph(int device, const Graph* graph) {
  select_device(device);
  check(cudaGraphLaunch(graph->exec, current_stream()), "replaying a step");
}

void destroy_graph(int device, Graph* graph) noexcept {
  const std::unique_ptr<Graph> ended(graph);
  cudaSetDevice(device);
  cudaDeviceSynchronize();
  cudaGraphExecDestroy(ended->exec);
  cudaGetLastError();
}

}  // namespace device_backend

}  // namespace tapecache
