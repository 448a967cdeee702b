#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "tapecache/core/error.h"
#include "tapecache/core/op_scope.h"
#include "tapecache/ops/cuda/capture.h"
#include "tapecache/ops/cuda/devices.h"
#include "tapecache/ops/cuda/faults.h"
#include "tapecache/ops/cuda/launch.cuh"

namespace tapecache::kernels::cuda {

namespace {

std::atomic<std::uint64_t> waits_so_far{0};

thread_local bool has_own_stream = false;
thread_local cudaStream_t own_stream = nullptr;
thread_local int selected_device = 0;

/// A pool of the library's own, as the default one is the host program's to set. It keeps what is freed.
cudaMemPool_t make_pool(int device) {
  int supported = 0;
  check(cudaDeviceGetAttribute(&supported, cudaDevAttrMemoryPoolsSupported, device), "asking for memory pools");
  if (!supported) return nullptr;
  cudaMemPoolProps properties{};
  properties.allocType = cudaMemAllocationTypePinned;
  properties.location.type = cudaMemLocationTypeDevice;
  properties.location.id = device;
  cudaMemPool_t pool = nullptr;
  check(cudaMemPoolCreate(&pool, &properties), "making a memory pool");
  std::uint64_t kept = ~std::uint64_t{0};
  check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &kept), "setting up a memory pool");
  return pool;
}

/// What the library keeps of a device. Made when a device is first used: a program that leaves it alone has nothing
/// there.
struct DeviceState {
  std::once_flag made;
  DeviceQueues queues;
  Faults faults{};

  void make(int device) {
    int previous = 0;
    check(cudaGetDevice(&previous), "asking for the current device");
    check(cudaSetDevice(device), "selecting a device");
    try {
      if (!queues.compute) check(cudaStreamCreate(&queues.compute), "making a stream");
      if (!queues.copies)
        check(cudaStreamCreateWithFlags(&queues.copies, cudaStreamNonBlocking), "making a stream for copies");
      if (!queues.pool) queues.pool = make_pool(device);
      int reads = 0;
      check(cudaDeviceGetAttribute(&reads, cudaDevAttrPageableMemoryAccess, device),
            "asking how it reads the host's memory");
      queues.reads_pageable_memory = reads != 0;
      faults = make_faults(queues.compute);
    } catch (...) {
      cudaSetDevice(previous);
      throw;
    }
    check(cudaSetDevice(previous), "selecting a device");
  }
};

/// Never destroyed: tensors in static storage may ask for it when it would be gone.
struct Devices {
  cudaError_t found = cudaSuccess;
  std::vector<std::unique_ptr<DeviceState>> all;

  Devices() {
    int count = 0;
    found = cudaGetDeviceCount(&count);
    cudaGetLastError();
    if (found == cudaSuccess) all.resize(static_cast<std::size_t>(count));
    for (auto& one : all) one = std::make_unique<DeviceState>();
  }

  static const Devices& get() {
    static const Devices& only = *new Devices;
    return only;
  }
};

const DeviceState& state_of(int device) {
  DeviceState& state = *Devices::get().all[static_cast<std::size_t>(device)];
  std::call_once(state.made, [&] { state.make(device); });
  return state;
}

std::string running_op() { return OpScope::current() ? OpScope::current() : "cuda"; }

std::string sizes(const dim3& d) {
  return std::to_string(d.x) + " x " + std::to_string(d.y) + " x " + std::to_string(d.z);
}

}  // namespace

void throw_failure(const std::string& what, const char* reason) {
  throw DeviceError(running_op() + ": " + what + " failed: " + reason);
}

void throw_launch_failure(cudaError_t status, const Grid& grid) {
  const std::string reason = cudaGetErrorString(status);
  cudaGetLastError();
  throw_failure("a kernel on " + sizes(grid.blocks) + " blocks of " + sizes(grid.threads) + " threads with " +
                    std::to_string(grid.shared_bytes) + " bytes of shared memory",
                reason.c_str());
}

void allow_shared_bytes(const void* kernel, std::size_t bytes) {
  static std::mutex mutex;
  static auto& allowed = *new std::map<std::pair<int, const void*>, std::size_t>;
  const std::lock_guard lock(mutex);
  std::size_t& most = allowed[{selected_device, kernel}];
  if (bytes <= most) return;  // another thread, or a graph, may be about to launch it with more
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
        "asking for shared memory");
  most = bytes;
}

int device_count() { return static_cast<int>(Devices::get().all.size()); }

cudaError_t why_no_devices() { return Devices::get().found; }

void select_device(int device) {
  check(cudaSetDevice(device), "selecting a device");
  selected_device = device;
}

int current_device() { return selected_device; }

const Faults& current_faults() { return state_of(selected_device).faults; }

const DeviceQueues& queues_of(int device) { return state_of(device).queues; }

cudaStream_t current_stream() { return has_own_stream ? own_stream : queues_of(selected_device).compute; }

std::uint64_t waits() { return waits_so_far; }

void wait() {
  require_no_capture();
  ++waits_so_far;
  check(cudaStreamSynchronize(current_stream()), "the device's work");
  throw_fault();
}

StreamScope::StreamScope(cudaStream_t stream) : previous_(own_stream), had_previous_(has_own_stream) {
  own_stream = stream;
  has_own_stream = true;
}

StreamScope::~StreamScope() {
  own_stream = previous_;
  has_own_stream = had_previous_;
}

}  // namespace tapecache::kernels::cuda
