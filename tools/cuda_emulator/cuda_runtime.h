#pragma once

// A stand-in for the part of the CUDA runtime that `ops/cuda` uses, so that its kernels run, and are tested, where
// there is no GPU. The threads of a block are fibers; blocks run one after another. For correctness alone: it has no
// speed to speak of.

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <tuple>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __shared__ constinit thread_local  // a host thread runs one block at a time; nobody initialises it

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned vx = 1, unsigned vy = 1, unsigned vz = 1) : x(vx), y(vy), z(vz) {}
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};

extern constinit thread_local uint3 threadIdx, blockIdx;
extern constinit thread_local dim3 blockDim, gridDim;
constexpr int warpSize = 32;

// --- host ---

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInvalidDevice = 101,
  cudaErrorNotReady = 600,
  cudaErrorIllegalAddress = 700,
  cudaErrorLaunchFailure = 719,
  cudaErrorStreamCaptureUnsupported = 900,
  cudaErrorStreamCaptureInvalidated = 901,
  cudaErrorStreamCaptureMerge = 902,
  cudaErrorStreamCaptureUnmatched = 903,
  cudaErrorStreamCaptureUnjoined = 904,
  cudaErrorStreamCaptureIsolation = 905,
  cudaErrorStreamCaptureImplicit = 906,
  cudaErrorCapturedEvent = 907,
  cudaErrorStreamCaptureWrongThread = 908,
};
enum cudaStreamCaptureMode {
  cudaStreamCaptureModeGlobal = 0,
  cudaStreamCaptureModeThreadLocal = 1,
  cudaStreamCaptureModeRelaxed = 2,
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaDeviceAttr { cudaDevAttrPageableMemoryAccess = 88, cudaDevAttrMemoryPoolsSupported = 115 };
enum cudaMemPoolAttr { cudaMemPoolAttrReleaseThreshold = 4 };
enum cudaMemAllocationType { cudaMemAllocationTypePinned = 1 };
enum cudaMemLocationType { cudaMemLocationTypeDevice = 1 };
constexpr unsigned cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2, cudaHostAllocDefault = 0,
                   cudaHostAllocPortable = 1, cudaHostAllocMapped = 2;
using cudaStream_t = struct CUstream_st*;
using cudaEvent_t = struct CUevent_st*;
using cudaMemPool_t = struct CUmemPoolHandle_st*;
struct cudaMemPoolProps {
  cudaMemAllocationType allocType;
  struct {
    cudaMemLocationType type;
    int id;
  } location;
};
struct cudaDeviceProp {
  char name[256];
  int major, minor;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes;
  cudaStream_t stream;
  void* attrs;
  unsigned numAttrs;
};

const char* cudaGetErrorString(cudaError_t);
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaSetDevice(int device);
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp*, int device);
inline cudaError_t cudaDriverGetVersion(int* version) { return *version = 0, cudaSuccess; }
inline cudaError_t cudaRuntimeGetVersion(int* version) { return *version = 0, cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int device);

/// Work on a stream waits in its queue or runs at once: see emulation::runs_at_once.
cudaError_t cudaStreamCreate(cudaStream_t* stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
/// The library's NCCL works on such a stream: see emulation::enqueue.
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int priority);
inline cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  return *least = 0, *greatest = -1, cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t);
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned flags);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t);
cudaError_t cudaEventSynchronize(cudaEvent_t);
cudaError_t cudaEventQuery(cudaEvent_t);
cudaError_t cudaEventDestroy(cudaEvent_t);
cudaError_t cudaStreamDestroy(cudaStream_t);
cudaError_t cudaDeviceSynchronize();

/// What a stream is given while it is captured is recorded, and done by each launch of the graph. A stream that waits
/// for an event of a capture is in it from then on, and must be joined to the first before the capture ends. Nothing
/// goes over the bounds of a capture, and no event of one is waited for, or asked for, by the host.
using cudaGraph_t = struct CUgraph_st*;
using cudaGraphExec_t = struct CUgraphExec_st*;
cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode);
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t*);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t*, cudaGraph_t, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t);
cudaError_t cudaGraphDestroy(cudaGraph_t);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t);

/// A kernel may take more than 48 KiB of shared memory, as far as it was last allowed to.
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int bytes);

/// Memory that the host cannot reach but by the functions below.
cudaError_t cudaMalloc(void** memory, std::size_t bytes);
cudaError_t cudaFree(void* memory);
cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps*);
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void* value);
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, std::size_t bytes);
cudaError_t cudaMallocFromPoolAsync(void** memory, std::size_t bytes, cudaMemPool_t, cudaStream_t);
cudaError_t cudaFreeAsync(void* memory, cudaStream_t);
/// Page-locked memory of the host: copies from and to it are made when the stream comes to them.
cudaError_t cudaHostAlloc(void** memory, std::size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void* memory);
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind, cudaStream_t);
cudaError_t cudaMemsetAsync(void* to, int byte, std::size_t bytes, cudaStream_t);

/// The device reaches page-locked memory where it is.
inline cudaError_t cudaHostGetDevicePointer(void** there, void* memory, unsigned) {
  return *there = memory, cudaSuccess;
}

namespace emulation {

bool is_device_memory(const void*);
bool is_pinned_memory(const void*);

/// Of the streams that a program makes, either those that kernels run on do their work at once, and the others
/// (cudaStreamNonBlocking) when an event or a synchronisation forces them to; or the other way round, where the
/// environment has TAPECACHE_EMULATED_ORDER=copies-first. So what waits for nothing finds old data, in one order or the
/// other.
bool runs_at_once(cudaStream_t);
/// On a stream with a priority, work may return cudaErrorNotReady: it waits for another host thread, and is done again
/// when somebody next asks how far the stream is. Other streams cannot wait for such a one, only the host can.
cudaError_t enqueue(cudaStream_t, std::function<cudaError_t()> work);
/// Has all streams do what they were given.
void run_all();
/// Lets the copy after the next `copies` fail when it is asked for, and those after it run again.
void fail_copy_after(int copies);

/// Whether what this stream is given, or, of the legacy stream, what this thread gives it, gets into a capture.
bool is_captured(cudaStream_t);
/// For such a stream: records the work, which each launch of the graph then does.
cudaError_t record(cudaStream_t, std::function<cudaError_t()> work);

template <class Work>
cudaError_t submit(cudaStream_t stream, Work work) {
  if (is_captured(stream)) return record(stream, std::move(work));
  if (runs_at_once(stream)) return work();
  return enqueue(stream, std::move(work));
}

/// Lets this process into device memory for a scope.
class DeviceAccess {
 public:
  DeviceAccess();
  ~DeviceAccess();
  DeviceAccess(const DeviceAccess&) = delete;
  DeviceAccess& operator=(const DeviceAccess&) = delete;
};

cudaError_t check_sizes(const cudaLaunchConfig_t&, const void* kernel);
cudaError_t launch(const cudaLaunchConfig_t&, void (*thread)(const void* kernel), const void* kernel);

template <class T>
bool is_reachable(const T& argument) {
  if constexpr (std::is_pointer_v<T>) {
    const void* p = const_cast<const void*>(static_cast<const volatile void*>(argument));
    return !p || is_device_memory(p) || is_pinned_memory(p);
  } else return true;
}

/// Where threads wait for one another. Returns what this one is told.
enum class Meeting { kBlock, kWarp, kInstruction, kShuffle, kBallot };
std::uint64_t meet(Meeting, unsigned mask, std::uint64_t said = 0, unsigned from_lane = 0);
unsigned lane();

/// The calling thread's place in its block; how many blocks this host thread has begun.
unsigned thread_of_block();
std::uint64_t blocks_begun();
/// Whether these bytes are of the shared memory that the running kernel's launch asked for.
bool is_shared_memory(const void*, std::size_t bytes);
/// Makes the launch fail, after the running block.
void fault(const char* what);

template <class T>
T shuffle(unsigned mask, T value, unsigned from_lane) {
  static_assert(sizeof(T) <= sizeof(std::uint64_t) && std::is_trivially_copyable_v<T>);
  std::uint64_t said = 0;
  std::memcpy(&said, &value, sizeof(T));
  said = meet(Meeting::kShuffle, mask, said, from_lane);
  std::memcpy(&value, &said, sizeof(T));
  return value;
}

}  // namespace emulation

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  static_assert((std::is_trivially_copyable_v<Parameters> && ...), "a kernel takes copies of bytes");
  const std::tuple<Parameters...> copies(arguments...);
  const auto reachable = [](const auto&... p) { return (emulation::is_reachable(p) && ...); };
  if (!std::apply(reachable, copies)) return cudaErrorIllegalAddress;
  const cudaError_t sizes = emulation::check_sizes(*config, reinterpret_cast<const void*>(kernel));
  if (sizes != cudaSuccess) return sizes;
  return emulation::submit(config->stream, [config = *config, kernel, copies, reachable] {
    if (!std::apply(reachable, copies)) return cudaErrorIllegalAddress;
    const auto thread = [&] { std::apply(kernel, copies); };
    return emulation::launch(
        config, [](const void* f) { (*static_cast<decltype(thread)*>(f))(); }, &thread);
  });
}

// --- device ---

inline void __syncthreads() { emulation::meet(emulation::Meeting::kBlock, ~0u); }
inline void __syncwarp(unsigned mask = ~0u) { emulation::meet(emulation::Meeting::kWarp, mask); }

inline unsigned __ballot_sync(unsigned mask, int predicate) {
  return static_cast<unsigned>(emulation::meet(emulation::Meeting::kBallot, mask, predicate != 0));
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }

template <class T>
T __shfl_sync(unsigned mask, T value, int from, int width = warpSize) {
  const unsigned w = static_cast<unsigned>(width), lane = emulation::lane();
  return emulation::shuffle(mask, value, lane / w * w + static_cast<unsigned>(from) % w);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = warpSize) {
  const unsigned w = static_cast<unsigned>(width), lane = emulation::lane(), from = lane ^ static_cast<unsigned>(bits);
  return emulation::shuffle(mask, value, from / w > lane / w ? lane : from);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize) {
  const unsigned w = static_cast<unsigned>(width), lane = emulation::lane();
  return emulation::shuffle(mask, value, lane % w + delta < w ? lane + delta : lane);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize) {
  const unsigned w = static_cast<unsigned>(width), lane = emulation::lane();
  return emulation::shuffle(mask, value, lane % w >= delta ? lane - delta : lane);
}

inline void __threadfence_system() {}

inline float __expf(float x) { return std::exp(x); }
inline float __fdividef(float x, float y) { return y > 0x1p126f && !std::isinf(y) ? 0 : x / y; }

inline int __popc(unsigned bits) { return std::popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }

template <class T>
T __ldg(const T* p) {
  return *p;
}
template <class T>
void __stcg(T* p, T value) {
  *p = value;
}
