#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include <cublasLt.h>

#include "tapecache/core/device_backend.h"
#include "tapecache/core/element.h"
#include "tapecache/core/error.h"
#include "tapecache/core/op_scope.h"
#include "tapecache/ops/cuda/block_reduce.cuh"
#include "tapecache/ops/cuda/capture.h"
#include "tapecache/ops/cuda/cudnn_attention.h"
#include "tapecache/ops/cuda/faults.h"
#include "tapecache/ops/cuda/packs.cuh"
#include "tapecache/ops/cuda/put.cuh"
#include "tapecache/ops/cuda/transfer.h"

namespace tapecache {

namespace kernels::cuda {

namespace {

std::atomic<std::uint64_t> waits_so_far{0};

thread_local bool has_own_stream = false;
thread_local cudaStream_t own_stream = nullptr;
thread_local int selected_device = 0;

struct Devices {
  cudaError_t found = cudaSuccess;
  std::vector<DeviceQueues> all;
  std::vector<Faults> faults;  // of each

  Devices() {
    int count = 0, previous = 0;
    found = cudaGetDeviceCount(&count);
    cudaGetLastError();
    if (found != cudaSuccess || count == 0) return;
    check(cudaGetDevice(&previous), "asking for the current device");
    for (int i = 0; i < count; ++i) {
      check(cudaSetDevice(i), "selecting a device");
      DeviceQueues& queues = all.emplace_back();
      check(cudaStreamCreate(&queues.compute), "making a stream");
      check(cudaStreamCreateWithFlags(&queues.copies, cudaStreamNonBlocking), "making a stream for copies");
      queues.pool = make_pool(i);
      faults.push_back(make_faults(queues.compute));
    }
    check(cudaSetDevice(previous), "selecting a device");
  }

  /// A pool of the library's own, as the default one is the host program's to set. It keeps what is freed.
  static cudaMemPool_t make_pool(int device) {
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
};

const Devices& devices() {
  static const Devices found;
  return found;
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

void select_device(int device) {
  check(cudaSetDevice(device), "selecting a device");
  selected_device = device;
}

int current_device() { return selected_device; }

const Faults& current_faults() { return devices().faults[static_cast<std::size_t>(selected_device)]; }

const DeviceQueues& queues_of(int device) { return devices().all[static_cast<std::size_t>(device)]; }

cudaStream_t current_stream() { return has_own_stream ? own_stream : queues_of(selected_device).compute; }

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

namespace {

template <class T>
__global__ void fill_kernel(std::int64_t n, T* to, T value) {
  for (std::int64_t i = thread_index(); i < n; i += thread_count()) to[i] = value;
}

template <class To, class From>
struct Convert {
  const From* from;
  To* to;

  template <int kCount>
  __device__ void at(std::int64_t i) const {
    const auto source = read_pack<kCount>(from + i);
    Pack<To, kCount> converted;
#pragma unroll
    for (int k = 0; k < kCount; ++k) converted.x[k] = convert_element<To>(source.x[k]);
    write_pack(to + i, converted);
  }
};

template <class T>
__device__ bool is_finite(T value) {
  if constexpr (std::is_same_v<T, double>) return std::isfinite(value);
  else return std::isfinite(static_cast<float>(value));
}

/// The place of the first of each block's elements that is not finite, n where all are.
template <class T>
__global__ void first_non_finite_kernel(std::int64_t n, const T* x, std::int64_t* first_of_block) {
  std::int64_t first = n;
  for (std::int64_t i = thread_index(); i < n && first == n; i += thread_count()) {
    if (!is_finite(x[i])) first = i;
  }
  first = block_reduce(first, Minimum{});
  if (threadIdx.x == 0) first_of_block[blockIdx.x] = first;
}

__global__ void smallest_kernel(std::int64_t n, const std::int64_t* x, std::int64_t* smallest) {
  std::int64_t own = x[0];
  for (std::int64_t i = threadIdx.x; i < n; i += blockDim.x) own = Minimum{}(own, x[i]);
  own = block_reduce(own, Minimum{});
  if (threadIdx.x == 0) *smallest = own;
}

template <class T>
struct Accumulate {
  const T* from;
  T* to;

  template <int kCount>
  __device__ void at(std::int64_t i) const {
    const auto added = read_pack<kCount>(from + i);
    auto sum = read_pack<kCount>(to + i);
#pragma unroll
    for (int k = 0; k < kCount; ++k) put(sum.x[k], static_cast<ComputedType<T>>(added.x[k]), kernels::Mode::kAccumulate);
    write_pack(to + i, sum);
  }
};

void copy_bytes(int device, void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, const char* what) {
  if (bytes == 0) return;
  select_device(device);
  check(cudaMemcpyAsync(to, from, bytes, kind, current_stream()), what);
}

}  // namespace

}  // namespace kernels::cuda

namespace device_backend {

using namespace kernels::cuda;

int count() { return static_cast<int>(devices().all.size()); }

std::string name(int device) {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, device), "asking for a device's name");
  return properties.name;
}

std::vector<std::pair<std::string, std::string>> versions(int device) {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, device), "asking for a device's properties");
  int driver = 0, runtime = 0;
  check(cudaDriverGetVersion(&driver), "asking for the driver's version");
  check(cudaRuntimeGetVersion(&runtime), "asking for the runtime's version");
  const auto dotted = [](int version) { return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10); };
  return {{"capability", std::to_string(properties.major) + "." + std::to_string(properties.minor)},
          {"cuda_driver", dotted(driver)},
          {"cuda_runtime", dotted(runtime)},
          {"cublaslt", std::to_string(cublasLtGetVersion())},
          {"cudnn", cudnn_version()}};
}

void require(const char* op, int device) {
  if (device >= 0 && device < count()) return;
  const cudaError_t found = devices().found;
  std::string there = count() == 1 ? "there is 1 CUDA device" : "there are " + std::to_string(count()) + " CUDA devices";
  if (found != cudaSuccess) there += std::string(": ") + cudaGetErrorString(found);
  throw DeviceError(std::string(op) + ": cuda:" + std::to_string(device) + " was asked for, and " + there);
}

// The emulation guards the bounds of each piece.
bool shares_segments(int device) { return name(device) != "emulated"; }

// CUDA copies from pageable memory, which the host's tensors are in, before it returns.
void copy_to_device(int device, void* to, const void* from, std::size_t bytes) {
  copy_bytes(device, to, lasting(from, bytes), bytes, cudaMemcpyHostToDevice, "a copy to the device");
}

void copy_to_host(int device, void* to, const void* from, std::size_t bytes) {
  require_no_capture();
  copy_bytes(device, to, from, bytes, cudaMemcpyDeviceToHost, "a copy to the host");
  synchronize(device);
}

void copy(int device, void* to, const void* from, std::size_t bytes) {
  copy_bytes(device, to, from, bytes, cudaMemcpyDeviceToDevice, "a copy");
}

void set_bytes(int device, void* to, int byte, std::size_t bytes) {
  if (bytes == 0) return;
  select_device(device);
  check(cudaMemsetAsync(to, byte, bytes, current_stream()), "setting memory");
}

void fill(int device, DType dtype, void* to, double value, std::int64_t n) {
  select_device(device);
  dispatch_any(dtype, [&]<class T>() {
    launch(fill_kernel<T>, grid_for(n), n, static_cast<T*>(to), convert_element<T>(value));
  });
}

void convert(int device, DType to_type, void* to, DType from_type, const void* from, std::int64_t n) {
  select_device(device);
  dispatch_any(from_type, [&]<class From>() {
    dispatch_any(to_type, [&]<class To>() {
      auto* target = static_cast<To*>(to);
      const auto* source = static_cast<const From*>(from);
      launch_each(n, Convert<To, From>{source, target}, source, target);
    });
  });
}

void accumulate(int device, DType dtype, void* to, const void* from, std::int64_t n) {
  select_device(device);
  dispatch_any_floating("accumulate", dtype, [&]<class T>() {
    auto* target = static_cast<T*>(to);
    const auto* source = static_cast<const T*>(from);
    launch_each(n, Accumulate<T>{source, target}, source, target);
  });
}

std::int64_t first_non_finite(int device, DType dtype, const void* elements, std::int64_t n) {
  constexpr std::int64_t kBlocks = 512;
  if (n == 0) return -1;
  select_device(device);
  const std::int64_t blocks = std::min(kBlocks, divide_up(n, kThreads));
  const Scratch<std::int64_t> first_of_block(blocks), first(1);
  dispatch_any(dtype, [&]<class T>() {
    launch(first_non_finite_kernel<T>, grid_of_rows(blocks), n, static_cast<const T*>(elements), first_of_block.data());
  });
  launch(smallest_kernel, grid_of_rows(1), blocks, first_of_block.data(), first.data());
  const std::int64_t found = fetch(first.data());
  return found < n ? found : -1;
}

std::uint64_t waits() { return waits_so_far; }

void synchronize(int device) {
  select_device(device);
  kernels::cuda::wait();
}

}  // namespace device_backend

}  // namespace tapecache
