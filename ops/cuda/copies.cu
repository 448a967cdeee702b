#include <string>

#include "tapecache/core/device_backend.h"
#include "tapecache/ops/cuda/capture.h"
#include "tapecache/ops/cuda/devices.h"
#include "tapecache/ops/cuda/status.h"

// Copies that run beside a device's other work.

namespace tapecache::device_backend {

using namespace kernels::cuda;

namespace {

cudaEvent_t event_of(const CopyEvent& event) { return static_cast<cudaEvent_t>(event.get()); }

CopyEvent make_event() {
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "making an event");
  return CopyEvent(event, [](void* made) { cudaEventDestroy(static_cast<cudaEvent_t>(made)); });
}

/// An event at the end of what a stream was given.
CopyEvent mark(cudaStream_t stream, const char* what) {
  CopyEvent event = make_event();
  check(cudaEventRecord(event_of(event), stream), what);
  return event;
}

}  // namespace

CopyEvent copy_async(int device, CopyDirection direction, void* to, const void* from, std::size_t bytes) {
  select_device(device);
  const cudaStream_t copies = is_recording() ? graph_copies(device) : queues_of(device).copies;
  const CopyEvent before = mark(current_stream(), "marking the work before a copy"), after = make_event();
  check(cudaStreamWaitEvent(copies, event_of(before), 0), "putting a copy after the work before it");
  const bool to_device = direction == CopyDirection::kToDevice;
  const std::string what =
      std::string("a copy of ") + std::to_string(bytes) + " bytes to the " + (to_device ? "device" : "host");
  if (bytes > 0) {
    check(cudaMemcpyAsync(to, from, bytes, to_device ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToHost, copies),
          what.c_str());
  }
  const cudaError_t marked = cudaEventRecord(event_of(after), copies);
  if (marked != cudaSuccess && !is_recording())
    cudaStreamSynchronize(copies);  // nobody will know when the memory is free
  check(marked, "marking the end of a copy");
  return after;
}

bool is_done(const CopyEvent& event) noexcept {
  const cudaError_t status = cudaEventQuery(event_of(event));
  cudaGetLastError();
  return status != cudaErrorNotReady;
}

void wait(const CopyEvent& event) { check(cudaEventSynchronize(event_of(event)), "a copy beside other work"); }

// A step that is being recorded comes after what the device's own stream waits for now.
void wait_on_device(int device, const CopyEvent& event) {
  select_device(device);
  const cudaStream_t waits = is_recording() ? queues_of(device).compute : current_stream();
  check(cudaStreamWaitEvent(waits, event_of(event), 0), "putting work after a copy");
}

void wait_recorded(int device, const CopyEvent& event) {
  select_device(device);
  check(cudaStreamWaitEvent(current_stream(), event_of(event), 0), "putting work after a copy");
}

CopyEvent end_of_work(int device) {
  select_device(device);
  return mark(current_stream(), "marking the end of work");
}

}  // namespace tapecache::device_backend
