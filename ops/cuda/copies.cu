#include <string>

#include "tapecache/ops/cuda/backend.h"
#include "tapecache/ops/cuda/capture.h"
#include "tapecache/ops/cuda/devices.h"
#include "tapecache/ops/cuda/status.h"
#include "tapecache/ops/cuda/transfer.h"

// Copies between the host and a device, and within one; their ends as events, which other work can be put after.

namespace tapecache::kernels::cuda {

namespace {

using tapecache::detail::CopyEvent;

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

void copy_bytes(int device, void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, const char* what) {
  if (bytes == 0) return;
  select_device(device);
  check(cudaMemcpyAsync(to, from, bytes, kind, current_stream()), what);
}

// The caller may change the memory when this returns. Most devices have read it by then.
void copy_from_host(int device, void* to, const void* from, std::size_t bytes) {
  constexpr std::size_t kFewBytes = 16 << 10;
  if (bytes <= kFewBytes && bytes % sizeof(std::uint32_t) == 0) {
    select_device(device);
    return upload(from, bytes, to);
  }
  copy_bytes(device, to, lasting(from, bytes), bytes, cudaMemcpyHostToDevice, "a copy to the device");
  if (bytes > 0 && queues_of(device).reads_pageable_memory && !is_recording()) cuda_backend.devices.synchronize(device);
}

void copy_to_host(int device, void* to, const void* from, std::size_t bytes) {
  require_no_capture();
  copy_bytes(device, to, from, bytes, cudaMemcpyDeviceToHost, "a copy to the host");
  cuda_backend.devices.synchronize(device);
}

void copy_within(int device, void* to, const void* from, std::size_t bytes) {
  copy_bytes(device, to, from, bytes, cudaMemcpyDeviceToDevice, "a copy");
}

CopyEvent copy_async(int device, DeviceBackend::Direction direction, void* to, const void* from, std::size_t bytes) {
  select_device(device);
  const cudaStream_t copies = is_recording() ? graph_copies(device) : queues_of(device).copies;
  const CopyEvent before = mark(current_stream(), "marking the work before a copy"), after = make_event();
  check(cudaStreamWaitEvent(copies, event_of(before), 0), "putting a copy after the work before it");
  const bool to_device = direction == DeviceBackend::Direction::kToDevice;
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

void wait_on_host(const CopyEvent& event) { check(cudaEventSynchronize(event_of(event)), "a copy beside other work"); }

// A step that is being captured comes after what the device's own stream waits for now.
void wait_on_device(int device, const CopyEvent& event) {
  select_device(device);
  const cudaStream_t waits = is_recording() ? queues_of(device).compute : current_stream();
  check(cudaStreamWaitEvent(waits, event_of(event), 0), "putting work after a copy");
}

void wait_captured(int device, const CopyEvent& event) {
  select_device(device);
  check(cudaStreamWaitEvent(current_stream(), event_of(event), 0), "putting work after a copy");
}

CopyEvent end_of_work(int device) {
  select_device(device);
  return mark(current_stream(), "marking the end of work");
}

}  // namespace

const DeviceBackend::Copies kCopies{
    .from_host = copy_from_host,
    .to_host = copy_to_host,
    .within = copy_within,
    .async = copy_async,
};

const DeviceBackend::Events kEvents{
    .wait = wait_on_device,
    .wait_on_host = wait_on_host,
    .is_done = is_done,
    .end_of_work = end_of_work,
    .wait_captured = wait_captured,
};

}  // namespace tapecache::kernels::cuda
