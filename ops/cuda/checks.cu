#include <algorithm>
#include <mutex>

#include "tapecache/core/value_checks.h"
#include "tapecache/ops/cuda/backend.h"
#include "tapecache/ops/cuda/block_reduce.cuh"
#include "tapecache/ops/cuda/faults.h"
#include "tapecache/ops/cuda/launch.cuh"
#include "tapecache/ops/cuda/scratch.h"

namespace tapecache {

namespace kernels::cuda {

namespace {

/// Whether index i is outside [0, limit). Copies it, or 0 in its place.
template <class T>
struct IndexCheck {
  const T* indices;
  std::int64_t limit;
  std::int64_t* checked;

  __device__ bool fails(std::int64_t i) const {
    const auto index = static_cast<std::int64_t>(indices[i]);
    const bool outside = index < 0 || index >= limit;
    checked[i] = outside ? 0 : index;
    return outside;
  }
  __device__ std::int64_t value(std::int64_t i) const { return static_cast<std::int64_t>(indices[i]); }
};

/// Whether row i holds no true.
struct RowCheck {
  const bool* flags;
  std::int64_t columns;

  __device__ bool fails(std::int64_t i) const {
    for (std::int64_t j = 0; j < columns; ++j) {
      if (flags[i * columns + j]) return false;
    }
    return true;
  }
  __device__ std::int64_t value(std::int64_t) const { return 0; }
};

/// The first that fails of those that a block looks at, n where none does.
template <class Check>
__global__ void find_failure_kernel(std::int64_t n, Check check, std::int64_t* first_of_block) {
  std::int64_t first = n;
  for (std::int64_t i = thread_index(); i < n; i += thread_count()) {
    if (check.fails(i) && first == n) first = i;
  }
  first = block_reduce(first, Minimum{});
  if (threadIdx.x == 0) first_of_block[blockIdx.x] = first;
}

/// Kernels of a stream run one after the other, so that the first to find `raised` unset is the first of all.
template <class Check>
__global__ void report_failure_kernel(std::int64_t n, Check check, std::int64_t blocks,
                                      const std::int64_t* first_of_block, std::int64_t number, volatile Fault* fault,
                                      int* raised) {
  std::int64_t first = n;
  for (std::int64_t i = threadIdx.x; i < blocks; i += blockDim.x) first = Minimum{}(first, first_of_block[i]);
  first = block_reduce(first, Minimum{});
  if (threadIdx.x != 0 || first == n || *raised) return;
  *raised = 1;
  fault->check = number;
  fault->position = first;
  fault->value = check.value(first);
  __threadfence_system();
  fault->found = 1;
}

template <class Check>
void queue_check(std::int64_t n, const Check& check, std::int64_t number) {
  constexpr std::int64_t kMax = 512;
  if (n == 0) return;
  const std::int64_t blocks = std::min(kMax, divide_up(n, kThreads));
  const Scratch<std::int64_t> first_of_block(blocks);
  const Faults& faults = current_faults();
  launch(find_failure_kernel<Check>, grid_of_rows(blocks), n, check, first_of_block.data());
  launch(report_failure_kernel<Check>, grid_of_rows(1), n, check, blocks, first_of_block.data(), number,
         faults.seen_by_device, faults.raised);
}

}  // namespace

Faults make_faults(cudaStream_t stream) {
  void *host = nullptr, *mapped = nullptr, *raised = nullptr;
  check(cudaHostAlloc(&host, sizeof(Fault), cudaHostAllocMapped), "allocating pinned memory");
  check(cudaHostGetDevicePointer(&mapped, host, 0), "mapping pinned memory");
  check(cudaMalloc(&raised, sizeof(int)), "allocating memory");
  check(cudaMemsetAsync(raised, 0, sizeof(int), stream), "setting memory");
  const Faults faults{new (host) Fault{}, static_cast<Fault*>(mapped), static_cast<int*>(raised)};
  return faults;
}

void throw_fault() {
  static std::mutex mutex;
  const Faults& faults = current_faults();
  if (!faults.seen_by_host->found) return;
  std::int64_t number, position, value;
  {
    const std::lock_guard lock(mutex);
    volatile Fault& fault = *faults.seen_by_host;
    if (!fault.found) return;  // another thread throws it
    number = fault.check;
    position = fault.position;
    value = fault.value;
    fault.found = 0;
    check(cudaMemsetAsync(faults.raised, 0, sizeof(int), current_stream()), "setting memory");
  }
  tapecache::detail::throw_failed_check(number, position, value);
}

namespace {

Tensor check_indices(const Tensor& indices, std::int64_t limit, const std::function<CheckText()>& text) {
  const Device device = indices.device();
  // No index is right, and 0 neither: the host throws for the first, if there is one.
  if (limit <= 0) return cpu_backend.checks.indices(indices.to(Device::cpu()), limit, text).to(device);
  select_device(device.index);
  Tensor checked = Tensor::empty(indices.shape(), DType::kInt64, device);
  const std::int64_t count = indices.numel(), number = tapecache::detail::number_of(text());
  auto* const result = checked.mutable_data<std::int64_t>();
  if (indices.dtype() == DType::kInt32) {
    queue_check(count, IndexCheck<std::int32_t>{indices.data<std::int32_t>(), limit, result}, number);
  } else {
    queue_check(count, IndexCheck<std::int64_t>{indices.data<std::int64_t>(), limit, result}, number);
  }
  return checked;
}

void check_rows(const Tensor& flags, const CheckText& text) {
  select_device(flags.device().index);
  queue_check(flags.size(0), RowCheck{flags.data<bool>(), flags.size(1)}, tapecache::detail::number_of(text));
}

}  // namespace

const DeviceBackend::Checks kChecks{.indices = check_indices, .rows = check_rows};

}  // namespace kernels::cuda

}  // namespace tapecache
