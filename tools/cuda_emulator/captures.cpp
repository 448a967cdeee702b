#include <algorithm>
#include <set>
#include <utility>

#include "streams.h"

// Captures and graphs. What CUDA refuses is refused here, and spoils the capture as it does there.

struct CUgraph_st {
  std::vector<emulation::Node> nodes;
};
struct CUgraphExec_st {
  std::vector<emulation::Node> nodes;
};

namespace emulation {

namespace {

thread_local Capture* captured_here = nullptr;

std::vector<Capture*>& captures() {
  static auto* all = new std::vector<Capture*>;
  return *all;
}

cudaError_t spoil(Capture& capture, cudaError_t reason) { return capture.invalid = true, reason; }

/// Of some nodes, and of what they come after, those that `wanted` holds for; their like are looked at once.
template <class Wanted>
std::set<std::size_t> ancestors(const std::vector<Node>& nodes, std::vector<std::size_t> from, const Wanted& wanted) {
  std::set<std::size_t> found;
  while (!from.empty()) {
    const std::size_t i = from.back();
    from.pop_back();
    if (!wanted(i) || !found.insert(i).second) continue;
    from.insert(from.end(), nodes[i].after.begin(), nodes[i].after.end());
  }
  return found;
}

bool is_joined(const Capture& capture) {
  const std::set<std::size_t> joined = ancestors(capture.nodes, capture.origin->last, [](std::size_t) { return true; });
  return std::all_of(capture.forked.begin(), capture.forked.end(), [&](const CUstream_st* stream) {
    return std::all_of(stream->last.begin(), stream->last.end(), [&](std::size_t i) { return joined.contains(i); });
  });
}

/// Of the graph's branches one does its work as early, and the other as late, as their edges allow.
cudaError_t run(const std::vector<Node>& nodes) {
  std::vector<bool> done(nodes.size());
  for (const bool late : {false, true}) {
    for (std::size_t i = 0; i < nodes.size(); ++i) {
      if (done[i] || (!late && nodes[i].forked != copies_first())) continue;
      for (const std::size_t before : ancestors(nodes, {i}, [&](std::size_t a) { return !done[a]; })) {
        done[before] = true;
        if (const cudaError_t status = nodes[before].work(); status != cudaSuccess) return status;
      }
    }
  }
  return cudaSuccess;
}

}  // namespace

bool is_captured(cudaStream_t stream) { return stream ? stream->capture != nullptr : captured_here != nullptr; }

cudaError_t record(cudaStream_t stream, Work work) {
  if (!stream) return spoil(*captured_here, cudaErrorStreamCaptureImplicit);
  Capture& capture = *stream->capture;
  if (capture.invalid) return cudaErrorStreamCaptureInvalidated;
  capture.nodes.push_back(
      {std::move(work), std::exchange(stream->last, {capture.nodes.size()}), stream != capture.origin});
  return cudaSuccess;
}

cudaError_t record_captured(CUevent_st& event, CUstream_st* stream) {
  if (!stream) return spoil(*captured_here, cudaErrorStreamCaptureImplicit);
  if (stream->capture->invalid) return cudaErrorStreamCaptureInvalidated;
  event = {nullptr, 0, stream->capture, stream->last};
  return cudaSuccess;
}

cudaError_t wait_captured(CUstream_st* stream, const CUevent_st& event) {
  if (!stream) return captured_here ? spoil(*captured_here, cudaErrorStreamCaptureImplicit) : cudaErrorCapturedEvent;
  if (!event.capture) return spoil(*stream->capture, cudaErrorStreamCaptureIsolation);
  if (event.capture->ended)
    return stream->capture ? spoil(*stream->capture, cudaErrorCapturedEvent) : cudaErrorCapturedEvent;
  if (event.capture->invalid) return cudaErrorStreamCaptureInvalidated;
  if (stream->capture && stream->capture != event.capture) {
    spoil(*event.capture, cudaErrorStreamCaptureMerge);
    return spoil(*stream->capture, cudaErrorStreamCaptureMerge);
  }
  if (!stream->capture) {
    stream->capture = event.capture;
    stream->last.clear();
    event.capture->forked.push_back(stream);
  }
  stream->last.insert(stream->last.end(), event.last.begin(), event.last.end());
  std::sort(stream->last.begin(), stream->last.end());
  stream->last.erase(std::unique(stream->last.begin(), stream->last.end()), stream->last.end());
  return cudaSuccess;
}

cudaError_t refuse_captured(const CUevent_st& event) { return spoil(*event.capture, cudaErrorCapturedEvent); }

cudaError_t refuse_unsafe_call() {
  const std::lock_guard lock(mutex());
  cudaError_t status = cudaSuccess;
  for (Capture* capture : captures()) {
    const bool here = capture->thread == std::this_thread::get_id();
    const bool forbids =
        capture->mode == cudaStreamCaptureModeGlobal || (capture->mode == cudaStreamCaptureModeThreadLocal && here);
    if (forbids) status = spoil(*capture, cudaErrorStreamCaptureUnsupported);
  }
  return status;
}

}  // namespace emulation

using namespace emulation;

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  const std::lock_guard lock(mutex());
  if (!stream || stream->capture || captured_here) return cudaErrorStreamCaptureUnsupported;
  stream->capture = std::make_shared<Capture>(Capture{stream, mode});
  stream->last.clear();
  captured_here = captures().emplace_back(stream->capture.get());
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const std::lock_guard lock(mutex());
  *graph = nullptr;
  if (!stream || !stream->capture) return cudaErrorInvalidValue;
  const std::shared_ptr<Capture> capture = stream->capture;
  if (capture.get() != captured_here) return spoil(*capture, cudaErrorStreamCaptureWrongThread);
  if (stream != capture->origin) return spoil(*capture, cudaErrorStreamCaptureUnmatched);
  const bool joined = is_joined(*capture);
  capture->forked.push_back(capture->origin);
  for (CUstream_st* in_it : capture->forked) {
    in_it->capture.reset();
    in_it->last.clear();
  }
  capture->ended = true;
  std::erase(captures(), capture.get());
  captured_here = nullptr;
  if (capture->invalid) return cudaErrorStreamCaptureInvalidated;
  if (!joined) return cudaErrorStreamCaptureUnjoined;
  return *graph = new CUgraph_st{std::move(capture->nodes)}, cudaSuccess;
}

/// No stream of a device that captures may be waited for with all others.
cudaError_t cudaDeviceSynchronize() {
  const std::lock_guard lock(mutex());
  for (Capture* capture : captures()) spoil(*capture, cudaErrorStreamCaptureUnsupported);
  if (!captures().empty()) return cudaErrorStreamCaptureUnsupported;
  return run_all(), cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  return *exec = new CUgraphExec_st{graph->nodes}, cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  return submit(stream, [exec] { return run(exec->nodes); });
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return delete graph, cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) { return delete exec, cudaSuccess; }
