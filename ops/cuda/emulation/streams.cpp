#include <algorithm>
#include <cstdlib>
#include <deque>
#include <memory>
#include <mutex>
#include <string_view>
#include <vector>

#include "cuda_runtime.h"

using Work = std::vector<std::function<cudaError_t()>>;

struct CUstream_st {
  bool beside = false;  // the kernels' streams
  std::deque<std::function<cudaError_t()>> queue = {};
  std::uint64_t given = 0, done = 0;
  cudaError_t failure = cudaSuccess;
  std::unique_ptr<Work> recorded = {};  // while it is captured
  bool invalid = false;                 // the capture
};

struct CUgraph_st {
  Work work;
};
struct CUgraphExec_st {
  Work work;
};

struct CUevent_st {
  CUstream_st* stream = nullptr;  // null where it waits for nothing
  std::uint64_t at = 0;
};

namespace emulation {

namespace {

thread_local CUstream_st* captured_here = nullptr;

/// Held while queued work runs, which may have another stream run its own.
std::recursive_mutex& mutex() {
  static auto* one = new std::recursive_mutex;
  return *one;
}

std::vector<CUstream_st*>& streams() {
  static auto* all = new std::vector<CUstream_st*>;
  return *all;
}

bool copies_first() {
  static const bool set = [] {
    const char* order = std::getenv("TAPECACHE_EMULATED_ORDER");
    return order && std::string_view(order) == "copies-first";
  }();
  return set;
}

/// Does what a stream was given up to a place, and no more.
void run(CUstream_st& stream, std::uint64_t place) {
  while (stream.done < place) {
    const std::function<cudaError_t()> work = std::move(stream.queue.front());
    stream.queue.pop_front();
    ++stream.done;
    const cudaError_t status = work();
    if (stream.failure == cudaSuccess) stream.failure = status;
  }
}

void run(const CUevent_st& event) {
  const std::lock_guard lock(mutex());
  if (event.stream) run(*event.stream, event.at);
}

bool is_done(const CUevent_st& event) {
  const std::lock_guard lock(mutex());
  return !event.stream || event.stream->done >= event.at;
}

}  // namespace

bool is_captured(cudaStream_t stream) { return stream ? stream->recorded != nullptr : captured_here != nullptr; }

cudaError_t record(cudaStream_t stream, std::function<cudaError_t()> work) {
  if (!stream) return captured_here->invalid = true, cudaErrorStreamCaptureImplicit;
  if (stream->invalid) return cudaErrorStreamCaptureInvalidated;
  stream->recorded->push_back(std::move(work));
  return cudaSuccess;
}

bool runs_at_once(cudaStream_t stream) { return !stream || stream->beside == copies_first(); }

cudaError_t enqueue(cudaStream_t stream, std::function<cudaError_t()> work) {
  const std::lock_guard lock(mutex());
  stream->queue.push_back(std::move(work));
  ++stream->given;
  return cudaSuccess;
}

void run_all() {
  const std::lock_guard lock(mutex());
  for (CUstream_st* stream : streams()) run(*stream, stream->given);
}

}  // namespace emulation

cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, 0); }

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  const std::lock_guard lock(emulation::mutex());
  *stream = emulation::streams().emplace_back(new CUstream_st{.beside = flags == cudaStreamNonBlocking});
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (!stream) return cudaSuccess;
  if (emulation::is_captured(stream)) return stream->invalid = true, cudaErrorStreamCaptureUnsupported;
  const std::lock_guard lock(emulation::mutex());
  emulation::run(*stream, stream->given);
  return std::exchange(stream->failure, cudaSuccess);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  return emulation::submit(stream, [event = *event] {
    emulation::run(event);
    return cudaSuccess;
  });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) { return *event = new CUevent_st, cudaSuccess; }

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const std::lock_guard lock(emulation::mutex());
  *event = emulation::runs_at_once(stream) ? CUevent_st{} : CUevent_st{stream, stream->given};
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  emulation::run(*event);
  return event->stream ? std::exchange(event->stream->failure, cudaSuccess) : cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) { return emulation::is_done(*event) ? cudaSuccess : cudaErrorNotReady; }

cudaError_t cudaEventDestroy(cudaEvent_t event) { return delete event, cudaSuccess; }

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const std::lock_guard lock(emulation::mutex());
  std::erase(emulation::streams(), stream);
  return delete stream, cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() { return emulation::run_all(), cudaSuccess; }

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (!stream || stream->recorded || emulation::captured_here) return cudaErrorStreamCaptureUnsupported;
  stream->recorded = std::make_unique<Work>();
  stream->invalid = false;
  emulation::captured_here = stream;
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = nullptr;
  if (!stream || stream != emulation::captured_here) return cudaErrorInvalidValue;
  emulation::captured_here = nullptr;
  const std::unique_ptr<Work> recorded = std::move(stream->recorded);
  if (stream->invalid) return cudaErrorStreamCaptureInvalidated;
  return *graph = new CUgraph_st{std::move(*recorded)}, cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  return *exec = new CUgraphExec_st{graph->work}, cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  return emulation::submit(stream, [exec] {
    for (const auto& work : exec->work) {
      if (const cudaError_t status = work(); status != cudaSuccess) return status;
    }
    return cudaSuccess;
  });
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return delete graph, cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) { return delete exec, cudaSuccess; }
