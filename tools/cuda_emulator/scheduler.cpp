#include <algorithm>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include <sanitizer/asan_interface.h>
#include <boost/context/fiber.hpp>
#include <boost/context/protected_fixedsize_stack.hpp>

#include "cuda_runtime.h"
#include "races.h"

constinit thread_local uint3 threadIdx{}, blockIdx{};
constinit thread_local dim3 blockDim, gridDim;

namespace tapecache::kernels::cuda {
constexpr std::size_t kMaxSharedBytes = 227 << 10;
alignas(16) thread_local unsigned char dynamic_shared_bytes[kMaxSharedBytes];
}  // namespace tapecache::kernels::cuda

namespace emulation {

namespace {

using boost::context::fiber;
using tapecache::kernels::cuda::dynamic_shared_bytes;
using tapecache::kernels::cuda::kMaxSharedBytes;

constexpr std::size_t kStackBytes = 128 << 10;
constexpr unsigned kMaxThreads = 1024, kMaxBlocksAcross = 65535, kWarp = 32;
constexpr std::uint64_t kNothingSaid = ~std::uint64_t{0};
constexpr std::size_t kGuardBytes = 4 << 10;  // after a kernel's shared memory, which must stay as they are
constexpr unsigned char kGuard = 0xA5;

thread_local std::string failure;
thread_local std::size_t shared_bytes = 0;
thread_local bool at_fault = false;

/// Runs the threads of a block, one at a time. A fiber runs one thread after another until one waits; then another
/// fiber takes over. So a block none of whose threads wait costs one switch.
class Multiprocessor {
 public:
  Multiprocessor() = default;
  Multiprocessor(const Multiprocessor&) = delete;
  Multiprocessor& operator=(const Multiprocessor&) = delete;
  ~Multiprocessor() {
    ended_ = true;
    for (fiber* f : idle_) enter(*f);
  }

  void begin(const dim3& block, void (*thread)(const void*), const void* kernel) {
    thread_ = thread;
    kernel_ = kernel;
    threads_.resize(block.x * block.y * block.z);
    if (block.x == blockDim.x && block.y == blockDim.y && block.z == blockDim.z && !index_.empty()) return;
    blockDim = block;
    index_.clear();
    for (unsigned z = 0; z < block.z; ++z) {
      for (unsigned y = 0; y < block.y; ++y) {
        for (unsigned x = 0; x < block.x; ++x) index_.push_back({x, y, z});
      }
    }
  }

  /// False where threads wait for others that never come.
  bool run_block(std::size_t block) {
    watch_block(static_cast<std::uint32_t>(block));
    ++blocks_;
    next_ = 0;
    live_ = threads_.size();
    for (Thread& t : threads_) t.state = State::kRunning;
    while (next_ < threads_.size()) enter(idle_fiber());
    while (live_ > 0) {
      release();
      if (released_.empty()) return give_up();
      for (const std::size_t i : released_) {
        select(i);
        threads_[i].state = State::kRunning;
        enter(*threads_[i].runner);
      }
    }
    return true;
  }

  std::uint64_t meet(Meeting meeting, unsigned mask, std::uint64_t said, unsigned from_lane) {
    Thread& t = threads_[current_];
    t = {State::kWaiting, meeting, mask, from_lane, said, running_};
    outside_ = std::move(outside_).resume();
    return threads_[current_].said;
  }

  unsigned current() const { return static_cast<unsigned>(current_); }
  std::uint64_t blocks() const { return blocks_; }

 private:
  enum class State : std::uint8_t { kRunning, kWaiting, kDone };
  struct Thread {
    State state;
    Meeting meeting;
    unsigned mask, from_lane;
    std::uint64_t said;
    fiber* runner;
  };

  void select(std::size_t i) {
    current_ = i;
    threadIdx = index_[i];
  }

  void enter(fiber& f) {
    running_ = &f;
    f = std::move(f).resume();
  }

  fiber& idle_fiber() {
    if (idle_.empty()) {
      fibers_.push_back(std::make_unique<fiber>(
          std::allocator_arg, boost::context::protected_fixedsize_stack(kStackBytes), [this](fiber&& outside) {
            outside_ = std::move(outside);
            while (!ended_) run_threads();
            return std::move(outside_);
          }));
      return *fibers_.back();
    }
    fiber& f = *idle_.back();
    idle_.pop_back();
    return f;
  }

  void run_threads() {
    while (next_ < threads_.size()) {
      select(next_++);
      thread_(kernel_);
      threads_[current_].state = State::kDone;
      --live_;
    }
    idle_.push_back(running_);
    outside_ = std::move(outside_).resume();
  }

  /// Finds the threads that may go on: all of a warp's mask that live have come, or all of the block.
  void release() {
    released_.clear();
    for (std::size_t first = 0; first < threads_.size(); first += kWarp) {
      Thread* warp = threads_.data() + first;
      const auto lanes = static_cast<unsigned>(std::min<std::size_t>(kWarp, threads_.size() - first));
      unsigned taken = 0;
      for (unsigned i = 0; i < lanes; ++i) {
        if (taken >> i & 1 || warp[i].state != State::kWaiting || warp[i].meeting == Meeting::kBlock) continue;
        unsigned group = 0;
        bool complete = warp[i].mask >> i & 1;
        for (unsigned j = 0; j < lanes; ++j) {
          if (!(warp[i].mask >> j & 1) || warp[j].state == State::kDone) continue;
          group |= 1u << j;
          complete = complete && warp[j].state == State::kWaiting && warp[j].meeting == warp[i].meeting &&
                     warp[j].mask == warp[i].mask;
        }
        if (!complete) continue;
        tell(warp, group, warp[i].meeting);
        if (warp[i].meeting == Meeting::kWarp) warp_has_met(static_cast<unsigned>(first / kWarp));
        taken |= group;
        for (unsigned j = 0; j < lanes; ++j) {
          if (group >> j & 1) released_.push_back(first + j);
        }
      }
    }
    if (!released_.empty()) return;
    block_has_met();
    for (std::size_t i = 0; i < threads_.size(); ++i) {
      if (threads_[i].state == State::kDone) continue;
      if (threads_[i].meeting != Meeting::kBlock) return released_.clear();
      released_.push_back(i);
    }
  }

  static void tell(Thread* warp, unsigned group, Meeting meeting) {
    std::uint64_t said[kWarp], votes = 0;
    for (unsigned i = 0; i < kWarp; ++i) {
      said[i] = group >> i & 1 ? warp[i].said : kNothingSaid;
      if (group >> i & 1 && warp[i].said == 1) votes |= 1u << i;
    }
    for (unsigned i = 0; i < kWarp; ++i) {
      if (!(group >> i & 1)) continue;
      if (meeting == Meeting::kBallot) warp[i].said = votes;
      if (meeting == Meeting::kShuffle)
        warp[i].said = warp[i].from_lane < kWarp ? said[warp[i].from_lane] : kNothingSaid;
    }
  }

  bool give_up() {
    const auto waiting = [&](bool block) {
      return std::to_string(std::count_if(threads_.begin(), threads_.end(), [&](const Thread& t) {
        return t.state == State::kWaiting && (t.meeting == Meeting::kBlock) == block;
      }));
    };
    failure = "divergent barrier: " + waiting(true) + " threads wait at __syncthreads and " + waiting(false) +
              " at a function of their warp for threads that do not come";
    // Those that wait are in the middle of a kernel for good.
    static auto* abandoned = new std::vector<std::unique_ptr<fiber>>;
    static std::mutex mutex;
    const std::lock_guard lock(mutex);
    std::move(fibers_.begin(), fibers_.end(), std::back_inserter(*abandoned));
    fibers_.clear();
    idle_.clear();
    return false;
  }

  void (*thread_)(const void*) = nullptr;
  const void* kernel_ = nullptr;
  std::vector<uint3> index_;
  std::vector<Thread> threads_;
  std::vector<std::size_t> released_;
  std::vector<std::unique_ptr<fiber>> fibers_;
  std::vector<fiber*> idle_;
  fiber outside_;
  fiber* running_ = nullptr;
  std::size_t next_ = 0, live_ = 0, current_ = 0;
  std::uint64_t blocks_ = 0;
  bool ended_ = false;
};

thread_local Multiprocessor multiprocessor;

/// How much shared memory kernels may ask for.
class SharedLimits {
 public:
  std::size_t of(const void* kernel) {
    const std::lock_guard lock(mutex_);
    const auto found = raised_.find(kernel);
    return found == raised_.end() ? kPlainSharedBytes : found->second;
  }
  void set(const void* kernel, std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    raised_[kernel] = std::max(bytes, kPlainSharedBytes);
  }

 private:
  static constexpr std::size_t kPlainSharedBytes = 48 << 10;
  std::mutex mutex_;
  std::map<const void*, std::size_t> raised_;
};

SharedLimits& shared_limits() {
  static auto* one = new SharedLimits;
  return *one;
}

}  // namespace

std::uint64_t meet(Meeting meeting, unsigned mask, std::uint64_t said, unsigned from_lane) {
  return multiprocessor.meet(meeting, mask, said, from_lane);
}

unsigned lane() { return multiprocessor.current() % kWarp; }

unsigned thread_of_block() { return multiprocessor.current(); }

std::uint64_t blocks_begun() { return multiprocessor.blocks(); }

bool is_shared_memory(const void* p, std::size_t bytes) {
  const auto* begin = static_cast<const unsigned char*>(p);
  return begin >= dynamic_shared_bytes && begin + bytes <= dynamic_shared_bytes + shared_bytes;
}

void fault(const char* what) {
  if (!at_fault) failure = what;
  at_fault = true;
}

cudaError_t check_sizes(const cudaLaunchConfig_t& config, const void* kernel) {
  const dim3 &grid = config.gridDim, &block = config.blockDim;
  const bool sizes_fit = grid.x > 0 && grid.y > 0 && grid.z > 0 && block.x > 0 && block.y > 0 && block.z > 0 &&
                         grid.x <= 0x7fffffffu && grid.y <= kMaxBlocksAcross && grid.z <= kMaxBlocksAcross &&
                         std::uint64_t{block.x} * block.y * block.z <= kMaxThreads && block.z <= 64;
  if (!sizes_fit) return cudaErrorInvalidConfiguration;
  return config.dynamicSmemBytes <= shared_limits().of(kernel) ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t launch(const cudaLaunchConfig_t& config, void (*thread)(const void*), const void* kernel) {
  const dim3 &grid = config.gridDim, &block = config.blockDim;
  const DeviceAccess access;
  Multiprocessor& mp = multiprocessor;
  mp.begin(block, thread, kernel);
  gridDim = grid;
  shared_bytes = config.dynamicSmemBytes;
  at_fault = false;
  unsigned char* guard = dynamic_shared_bytes + shared_bytes;
  const std::size_t guard_bytes = std::min(kGuardBytes, kMaxSharedBytes - shared_bytes);
  std::memset(guard, kGuard, guard_bytes);
  ASAN_POISON_MEMORY_REGION(dynamic_shared_bytes + config.dynamicSmemBytes, kMaxSharedBytes - config.dynamicSmemBytes);
  bool finished = true;
  std::size_t block_number = 0;
  begin_watching();
  for (unsigned z = 0; z < grid.z && finished; ++z) {
    for (unsigned y = 0; y < grid.y && finished; ++y) {
      for (unsigned x = 0; x < grid.x && finished; ++x) {
        blockIdx = {x, y, z};
        std::memset(dynamic_shared_bytes, 0xFF, shared_bytes);  // a block finds nothing there
        finished = mp.run_block(block_number++) && !at_fault;
      }
    }
  }
  end_watching();
  ASAN_UNPOISON_MEMORY_REGION(dynamic_shared_bytes, kMaxSharedBytes);
  if (finished && std::any_of(guard, guard + guard_bytes, [](unsigned char byte) { return byte != kGuard; })) {
    fault("written past the end of shared memory");
    finished = false;
  }
  return finished ? cudaSuccess : cudaErrorLaunchFailure;
}

}  // namespace emulation

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int bytes) {
  if (bytes < 0 || static_cast<std::size_t>(bytes) > emulation::kMaxSharedBytes) return cudaErrorInvalidValue;
  return emulation::shared_limits().set(kernel, static_cast<std::size_t>(bytes)), cudaSuccess;
}

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument (emulated)";
    case cudaErrorMemoryAllocation:
      return "out of memory (emulated)";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument (emulated)";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal (emulated)";
    case cudaErrorNotReady:
      return "device not ready (emulated)";
    case cudaErrorIllegalAddress:
      return "a pointer that is not to device memory (emulated)";
    case cudaErrorLaunchFailure:
      return emulation::failure.empty() ? "launch failure (emulated)" : emulation::failure.c_str();
    case cudaErrorStreamCaptureUnsupported:
      return "operation not permitted when stream is capturing (emulated)";
    case cudaErrorStreamCaptureInvalidated:
      return "operation failed due to a previous error during capture (emulated)";
    case cudaErrorStreamCaptureMerge:
      return "operation would merge two captures (emulated)";
    case cudaErrorStreamCaptureUnmatched:
      return "capture was not begun on this stream (emulated)";
    case cudaErrorStreamCaptureUnjoined:
      return "capturing stream has unjoined work (emulated)";
    case cudaErrorStreamCaptureIsolation:
      return "dependency crosses the boundary of a capture (emulated)";
    case cudaErrorCapturedEvent:
      return "operation not permitted on an event last recorded in a capture (emulated)";
    case cudaErrorStreamCaptureWrongThread:
      return "capture was not begun by this thread (emulated)";
    case cudaErrorStreamCaptureImplicit:
      return "operation would make the legacy stream depend on a capturing one (emulated)";
  }
  return "unknown error (emulated)";
}
