#include <cstdlib>
#include <string_view>
#include <utility>

#include "streams.h"

namespace emulation {

std::recursive_mutex& mutex() {
  static auto* one = new std::recursive_mutex;
  return *one;
}

bool copies_first() {
  static const bool set = [] {
    const char* order = std::getenv("TAPECACHE_EMULATED_ORDER");
    return order && std::string_view(order) == "copies-first";
  }();
  return set;
}

namespace {

std::vector<CUstream_st*>& streams() {
  static auto* all = new std::vector<CUstream_st*>;
  return *all;
}

/// Does what a stream was given up to a place, and no more; of one that is asked, as far as it can.
void run(CUstream_st& stream, std::uint64_t place) {
  while (stream.done < place) {
    const Work work = std::move(stream.queue.front());
    stream.queue.pop_front();
    ++stream.done;
    const cudaError_t status = work();
    if (stream.asked && status == cudaErrorNotReady) {
      stream.queue.push_front(work);
      --stream.done;
      return;
    }
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

/// The host waits, for other threads too. Returns what failed of the stream's work since it was last asked.
cudaError_t run_to_the_end(const CUevent_st& event) {
  if (!event.stream) return cudaSuccess;
  for (run(event); event.stream->asked && !is_done(event); run(event)) std::this_thread::yield();
  const std::lock_guard lock(mutex());
  return std::exchange(event.stream->failure, cudaSuccess);
}

CUevent_st end_of(cudaStream_t stream) {
  const std::lock_guard lock(mutex());
  return {stream, stream->given};
}

}  // namespace

bool runs_at_once(cudaStream_t stream) { return !stream || (!stream->asked && stream->beside == copies_first()); }

cudaError_t enqueue(cudaStream_t stream, Work work) {
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

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) {
  const cudaError_t status = cudaStreamCreateWithFlags(stream, flags);
  (*stream)->asked = true;
  return status;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (!stream) return cudaSuccess;
  if (stream->capture) return stream->capture->invalid = true, cudaErrorStreamCaptureUnsupported;
  if (const cudaError_t refused = emulation::refuse_unsafe_call(); refused != cudaSuccess) return refused;
  return emulation::run_to_the_end(emulation::end_of(stream));
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  if (event->capture || emulation::is_captured(stream)) return emulation::wait_captured(stream, *event);
  return emulation::submit(stream, [event = *event] {
    emulation::run(event);
    return cudaSuccess;
  });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) { return *event = new CUevent_st, cudaSuccess; }

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (emulation::is_captured(stream)) return emulation::record_captured(*event, stream);
  const std::lock_guard lock(emulation::mutex());
  *event = emulation::runs_at_once(stream) ? CUevent_st{} : CUevent_st{stream, stream->given};
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (event->capture) return emulation::refuse_captured(*event);
  if (const cudaError_t refused = emulation::refuse_unsafe_call(); refused != cudaSuccess) return refused;
  return emulation::run_to_the_end(*event);
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (event->capture) return emulation::refuse_captured(*event);
  if (const cudaError_t refused = emulation::refuse_unsafe_call(); refused != cudaSuccess) return refused;
  if (event->stream && event->stream->asked) emulation::run(*event);
  if (!emulation::is_done(*event)) return cudaErrorNotReady;
  return event->stream && event->stream->asked ? std::exchange(event->stream->failure, cudaSuccess) : cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) { return delete event, cudaSuccess; }

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const std::lock_guard lock(emulation::mutex());
  if (stream->capture) return stream->capture->invalid = true, cudaErrorStreamCaptureUnsupported;
  std::erase(emulation::streams(), stream);
  return delete stream, cudaSuccess;
}
