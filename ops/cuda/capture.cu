#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tapecache/core/error.h"
#include "tapecache/core/op_scope.h"
#include "tapecache/ops/cuda/backend.h"
#include "tapecache/ops/cuda/capture.h"
#include "tapecache/ops/cuda/devices.h"
#include "tapecache/ops/cuda/status.h"

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

/// A capture of this thread: streams of its own, so that no other thread's work gets into it.
struct Capture {
  int device = 0;
  cudaStream_t stream = nullptr, copies = nullptr;
  cudaEvent_t joined = nullptr;
  bool forked = false;  // copies are in it
  std::optional<StreamScope> scope;
  std::unique_ptr<PinnedCopies> values = std::make_unique<PinnedCopies>();

  Capture() = default;
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;
  ~Capture() {
    scope.reset();
    for (const cudaStream_t made : {stream, copies}) {
      if (made) cudaStreamDestroy(made);
    }
    if (joined) cudaEventDestroy(joined);
  }

  /// Null where it failed. A capture of which a branch goes nowhere is no graph, so what is copied last is joined
  /// first.
  cudaError_t end(cudaGraph_t* recorded) {
    cudaError_t status = cudaSuccess;
    if (forked) {
      status = cudaEventRecord(joined, copies);
      if (status == cudaSuccess) status = cudaStreamWaitEvent(stream, joined, 0);
    }
    const cudaError_t ended = cudaStreamEndCapture(stream, recorded);
    return status == cudaSuccess ? ended : status;
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

cudaStream_t graph_copies(int device) {
  if (capture->device != device) {
    throw DeviceError("copy to or from cuda:" + std::to_string(device) +
                      ": a step of cuda:" + std::to_string(capture->device) + " is recorded");
  }
  capture->forked = true;
  return capture->copies;
}

const void* lasting(const void* host_bytes, std::size_t bytes) {
  return capture && bytes > 0 ? capture->values->add(host_bytes, bytes) : host_bytes;
}

}  // namespace kernels::cuda

struct DeviceBackend::Graph {
  cudaGraphExec_t exec = nullptr;
  cudaEvent_t copied = nullptr;    // what was copied before the last launch
  cudaEvent_t launched = nullptr;  // the end of the last launch
  std::unique_ptr<kernels::cuda::PinnedCopies> values;

  Graph() = default;
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  ~Graph() {
    if (exec) cudaGraphExecDestroy(exec);
    for (const cudaEvent_t event : {copied, launched}) {
      if (event) cudaEventDestroy(event);
    }
  }
};

namespace kernels::cuda {

namespace {

using Graph = DeviceBackend::Graph;

void begin_capture(int device) {
  select_device(device);
  auto begun = std::make_unique<Capture>();
  begun->device = device;
  check(cudaStreamCreateWithFlags(&begun->stream, cudaStreamNonBlocking), "making a stream");
  check(cudaStreamCreateWithFlags(&begun->copies, cudaStreamNonBlocking), "making a stream");
  check(cudaEventCreateWithFlags(&begun->joined, cudaEventDisableTiming), "making an event");
  // Relaxed, for memory is allocated and copies of before are waited for meanwhile; what must not be done is refused by
  // require_no_capture.
  check(cudaStreamBeginCapture(begun->stream, cudaStreamCaptureModeRelaxed), "beginning to record a step");
  begun->scope.emplace(begun->stream);
  capture = std::move(begun);
}

Graph* end_capture(int device) {
  select_device(device);
  const std::unique_ptr<Capture> ended = std::move(capture);
  cudaGraph_t recorded = nullptr;
  const cudaError_t captured = ended->end(&recorded);
  auto graph = std::make_unique<Graph>();
  const cudaError_t status = captured == cudaSuccess ? cudaGraphInstantiate(&graph->exec, recorded, 0) : captured;
  if (recorded) cudaGraphDestroy(recorded);
  check(captured, "recording a step");
  check(status, "making a recorded step ready");
  for (cudaEvent_t* event : {&graph->copied, &graph->launched}) {
    check(cudaEventCreateWithFlags(event, cudaEventDisableTiming), "making an event");
  }
  graph->values = std::move(ended->values);
  return graph.release();
}

void cancel_capture(int) noexcept {
  const std::unique_ptr<Capture> ended = std::move(capture);
  if (!ended) return;
  cudaGraph_t recorded = nullptr;
  ended->end(&recorded);
  if (recorded) cudaGraphDestroy(recorded);
  cudaGetLastError();
}

// A replay asks for no pointers, by which it could be put after the copies into its inputs and out of its results: so
// it comes after all that were asked for before it.
void launch_graph(int device, const Graph* graph) {
  select_device(device);
  check(cudaEventRecord(graph->copied, queues_of(device).copies), "marking copies");
  check(cudaStreamWaitEvent(current_stream(), graph->copied, 0), "putting a step after copies");
  check(cudaGraphLaunch(graph->exec, current_stream()), "replaying a step");
  check(cudaEventRecord(graph->launched, current_stream()), "marking the end of a step");
}

// The device as a whole may not be waited for while another thread records a step.
void destroy_graph(int device, Graph* graph) noexcept {
  int previous = 0;
  cudaGetDevice(&previous);
  cudaSetDevice(device);
  cudaEventSynchronize(graph->launched);
  delete graph;
  cudaSetDevice(previous);
  cudaGetLastError();
}

}  // namespace

const DeviceBackend::Graphs kGraphs{
    .begin = begin_capture,
    .end = end_capture,
    .cancel = cancel_capture,
    .launch = launch_graph,
    .destroy = destroy_graph,
};

}  // namespace kernels::cuda

}  // namespace tapecache
