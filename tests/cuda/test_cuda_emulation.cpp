#include <boost/test/unit_test.hpp>

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <span>

#include "gradcache_checks.h"
#include "tapecache/core/allocator.h"
#include "tapecache/core/error.h"
#include "tapecache/core/op_scope.h"
#include "tapecache/core/tensor.h"
#include "tapecache/ops/cuda/block_reduce.cuh"
#include "tapecache/ops/cuda/launch.cuh"
#include "tapecache/ops/cuda/transfer.h"

// What the emulation of CUDA promises to the kernels that are tested on it.

using namespace tapecache;
using namespace tapecache::testing;
using namespace tapecache::kernels::cuda;

namespace {

__global__ void sum_kernel(const double* x, double* sums, double* maxima) {
  const double value = x[thread_index()];
  const double sum = block_sum(value), largest = block_max(value);
  if (threadIdx.x == blockDim.x - 1) {
    sums[blockIdx.x] = sum;
    maxima[blockIdx.x] = largest;
  }
}

__global__ void reverse_kernel(std::int64_t n, double* x) {
  double* kept = dynamic_shared<double>();
  const unsigned i = threadIdx.y * blockDim.x + threadIdx.x;
  if (i >= n) return;  // those that leave early do not hold up the others
  kept[i] = x[i];
  __syncthreads();
  x[i] = kept[n - 1 - i];
}

__global__ void shuffle_kernel(double* down, double* up, double* first_of_eight, int* even) {
  const unsigned i = threadIdx.x;
  down[i] = __shfl_down_sync(kAllLanes, double(i), 3);
  up[i] = __shfl_up_sync(kAllLanes, double(i), 3);
  first_of_eight[i] = __shfl_sync(kAllLanes, double(i), 0, 8);
  even[i] = static_cast<int>(__ballot_sync(kAllLanes, i % 2 == 0) & 0xff);
}

__global__ void divergent_kernel() {
  if (threadIdx.x == 3) __syncwarp();
  else __syncthreads();
}

__global__ void nothing_kernel(const double*) {}

Tensor device_vector(std::int64_t n, DType dtype = DType::kFloat64) {
  return Tensor::zeros({n}, dtype, Device::cuda());
}

}  // namespace

BOOST_AUTO_TEST_SUITE(emulation)

BOOST_AUTO_TEST_CASE(it_says_what_it_is) { BOOST_CHECK_EQUAL(Device::cuda().name(), "emulated"); }

BOOST_AUTO_TEST_CASE(blocks_reduce) {
  const Tensor x = random_values({3 * 256}, 1).to(Device::cuda());
  Tensor sums = device_vector(3), maxima = device_vector(3);
  launch(sum_kernel, Grid{3, 256}, x.data<double>(), sums.mutable_data<double>(), maxima.mutable_data<double>());
  const std::vector<double> values = doubles(x);
  for (std::size_t block = 0; block < 3; ++block) {
    double sum = 0, largest = -2;
    for (std::size_t i = 0; i < 256; ++i) {
      sum += values[block * 256 + i];
      largest = std::max(largest, values[block * 256 + i]);
    }
    BOOST_TEST(std::abs(doubles(sums)[block] - sum) <= 1e-12);
    BOOST_TEST(doubles(maxima)[block] == largest);
  }
}

BOOST_AUTO_TEST_CASE(values_go_there_and_back) {
  const std::vector<double> values{1, 2, 3};
  select_device(0);
  const Uploaded<double> uploaded(values);
  Scratch<double> sums(2);
  launch(sum_kernel, Grid{1, 32}, Uploaded<double>(std::vector<double>(32, 0.5)).data(), sums.data(), sums.data() + 1);
  BOOST_TEST(fetch(uploaded.data() + 2) == 3);
  BOOST_TEST(fetch(sums.data()) == 16);
  BOOST_TEST(fetch(sums.data() + 1) == 0.5);
}

BOOST_AUTO_TEST_CASE(values_of_any_number_go_there) {
  select_device(0);
  for (const std::size_t count :
       {std::size_t{1}, std::size_t{448}, std::size_t{449}, std::size_t{2000}}) {  // 448 in a parcel
    std::vector<double> values(count);
    for (std::size_t i = 0; i < count; ++i) values[i] = 1.0 / static_cast<double>(i + 1);
    const Uploaded<double> there{std::span<const double>(values)};
    const std::vector<double> expected = values;
    std::fill(values.begin(), values.end(), 0);  // they are the caller's again
    for (const std::size_t i : {std::size_t{0}, count / 2, count - 1})
      BOOST_TEST(fetch(there.data() + i) == expected[i]);
  }
}

BOOST_AUTO_TEST_CASE(what_a_kernel_may_ask_for_is_never_lowered) {
  Tensor x = vector_of({1, 2, 3, 4, 5}).to(Device::cuda());
  constexpr std::size_t kMuch = 64 << 10, kLess = 50 << 10;
  launch(reverse_kernel, Grid{1, 32, kMuch}, 5, x.mutable_data<double>());
  launch(reverse_kernel, Grid{1, 32, kLess}, 5, x.mutable_data<double>());
  cudaLaunchConfig_t config{};  // as another thread would that asked before
  config.gridDim = 1;
  config.blockDim = 32;
  config.dynamicSmemBytes = kMuch;
  BOOST_CHECK(cudaLaunchKernelEx(&config, reverse_kernel, std::int64_t{5}, x.mutable_data<double>()) == cudaSuccess);
}

BOOST_AUTO_TEST_CASE(threads_that_leave_do_not_hold_up_a_barrier) {
  Tensor x = vector_of({1, 2, 3, 4, 5}).to(Device::cuda());
  launch(reverse_kernel, Grid{1, dim3(16, 4), 5 * sizeof(double)}, 5, x.mutable_data<double>());
  check_equal(x, {5, 4, 3, 2, 1});
}

#if !defined(__SANITIZE_ADDRESS__)  // which ends the program there
BOOST_AUTO_TEST_CASE(a_write_past_shared_memory_is_an_error) {
  Tensor x = vector_of({1, 2, 3, 4, 5}).to(Device::cuda());
  BOOST_CHECK_EXCEPTION(launch(reverse_kernel, Grid{1, 5, 4 * sizeof(double)}, 5, x.mutable_data<double>()),
                        DeviceError, says({"past the end of shared memory"}));
}
#endif

BOOST_AUTO_TEST_CASE(lanes_exchange_values) {
  Tensor down = device_vector(32), up = device_vector(32), first = device_vector(32);
  Tensor even = device_vector(32, DType::kInt32);
  launch(shuffle_kernel, Grid{1, 32}, down.mutable_data<double>(), up.mutable_data<double>(),
         first.mutable_data<double>(), even.mutable_data<std::int32_t>());
  for (std::size_t i = 0; i < 32; ++i) {
    const auto lane = static_cast<double>(i);
    BOOST_TEST(doubles(down)[i] == (i + 3 < 32 ? lane + 3 : lane));
    BOOST_TEST(doubles(up)[i] == (i >= 3 ? lane - 3 : lane));
    BOOST_TEST(doubles(first)[i] == static_cast<double>(i / 8 * 8));
    BOOST_TEST(doubles(even)[i] == 0x55);
  }
}

BOOST_AUTO_TEST_CASE(a_divergent_barrier_is_an_error) {
  const OpScope scope("some_op");
  for (int again = 0; again < 2; ++again) {
    BOOST_CHECK_EXCEPTION(launch(divergent_kernel, Grid{2, 64}), DeviceError,
                          says({"some_op:", "divergent barrier", "63"}));
  }
  launch(nothing_kernel, Grid{2, 64}, nullptr);
}

BOOST_AUTO_TEST_CASE(sizes_and_pointers_are_checked_as_by_a_device) {
  double here = 0;
  BOOST_CHECK_THROW(launch(nothing_kernel, Grid{1, 1025}, nullptr), DeviceError);
  BOOST_CHECK_THROW(launch(nothing_kernel, Grid{1, 32, 1 << 20}, nullptr), DeviceError);
  BOOST_CHECK_THROW(launch(nothing_kernel, Grid{dim3(1, 70000)}, nullptr), DeviceError);
  BOOST_CHECK_THROW(launch(nothing_kernel, Grid{1}, &here), DeviceError);
  launch(nothing_kernel, Grid{0}, nullptr);
}

BOOST_AUTO_TEST_CASE(streams_of_one_kind_run_at_once_and_of_the_other_when_they_must) {
  cudaStream_t kernels = nullptr, copies = nullptr;
  cudaEvent_t event = nullptr;
  check(cudaStreamCreate(&kernels), "");
  check(cudaStreamCreateWithFlags(&copies, cudaStreamNonBlocking), "");
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "");
  BOOST_TEST(emulation::runs_at_once(kernels) != emulation::runs_at_once(copies));
  const cudaStream_t eager = emulation::runs_at_once(kernels) ? kernels : copies,
                     late = eager == kernels ? copies : kernels;
  Tensor pinned = vector_of({1, 2, 3}).pinned(), there = device_vector(3),
         back = Tensor::empty_pinned({3}, DType::kFloat64);
  Device::cuda().synchronize();
  const auto upload = [&](cudaStream_t stream) {
    check(cudaMemcpyAsync(there.mutable_raw(), pinned.raw(), 24, cudaMemcpyHostToDevice, stream), "");
  };
  const auto download = [&](cudaStream_t stream) {
    check(cudaMemcpyAsync(back.mutable_raw(), there.raw(), 24, cudaMemcpyDeviceToHost, stream), "");
  };
  upload(late);
  check(cudaEventRecord(event, late), "");
  pinned.fill(4);  // too early: what the copy finds is what is there when it is made
  upload(late);
  pinned.fill(5);
  download(eager);
  check_equal(back, {0, 0, 0});
  BOOST_TEST((cudaEventQuery(event) == cudaErrorNotReady));
  check(cudaStreamWaitEvent(eager, event, 0), "");
  BOOST_TEST((cudaEventQuery(event) == cudaSuccess));
  download(eager);
  check_equal(back, {5, 5, 5});
  pinned.fill(6);
  download(eager);
  check_equal(back, {5, 5, 5});  // up to the event, and no further
  check(cudaStreamSynchronize(late), "");
  download(eager);
  check_equal(back, {6, 6, 6});
  upload(late);
  pinned.fill(7);
  check(cudaEventRecord(event, eager), "");
  check(cudaEventSynchronize(event), "");
  download(eager);
  check_equal(back, {6, 6, 6});
  // Ordinary memory of the host is read before the call returns, and written before it returns.
  Tensor ordinary = vector_of({8, 8, 8});
  check(cudaMemcpyAsync(there.mutable_raw(), ordinary.raw(), 24, cudaMemcpyHostToDevice, late), "");
  ordinary.fill(9);
  check(cudaMemcpyAsync(ordinary.mutable_raw(), there.raw(), 24, cudaMemcpyDeviceToHost, late), "");
  check_equal(ordinary, {8, 8, 8});
  cudaEventDestroy(event);
  for (const cudaStream_t stream : {kernels, copies}) cudaStreamDestroy(stream);
}

BOOST_AUTO_TEST_CASE(a_copy_into_memory_that_is_gone_is_an_error) {
  cudaStream_t kernels = nullptr, copies = nullptr;
  check(cudaStreamCreate(&kernels), "");
  check(cudaStreamCreateWithFlags(&copies, cudaStreamNonBlocking), "");
  const cudaStream_t late = emulation::runs_at_once(kernels) ? copies : kernels;
  const Tensor there = device_vector(3);
  for (const bool host : {true, false}) {
    void *here = nullptr, *gone = nullptr;
    check(cudaHostAlloc(&here, 24, cudaHostAllocPortable), "");
    check(cudaMallocFromPoolAsync(&gone, 24, queues_of(0).pool, nullptr), "");
    check(cudaMemcpyAsync(gone, here, 24, cudaMemcpyHostToDevice, late), "");
    if (host) check(cudaFreeHost(here), "");
    else check(cudaFreeAsync(gone, nullptr), "");
    BOOST_TEST((cudaStreamSynchronize(late) == cudaErrorIllegalAddress));
    BOOST_TEST((cudaStreamSynchronize(late) == cudaSuccess));
  }
  BOOST_TEST((cudaFreeAsync(nullptr, late) == cudaErrorInvalidValue));
  BOOST_TEST((cudaFreeHost(const_cast<std::byte*>(vector_of({1}).raw())) == cudaErrorInvalidValue));
}

BOOST_AUTO_TEST_CASE(a_copy_that_fails_says_what_it_was) {
  const Tensor host = random_values({100}, 1).pinned(), there = host.to(Device::cuda());
  const OpScope scope("some_op");
  emulation::fail_copy_after(0);
  BOOST_CHECK_EXCEPTION(host.to_async(Device::cuda()), DeviceError, says({"some_op:", "800 bytes to the device"}));
  emulation::fail_copy_after(0);
  BOOST_CHECK_EXCEPTION(there.to_async(Device::cpu()), DeviceError, says({"some_op:", "800 bytes to the host"}));
  BOOST_TEST(same_bits(there.to_async(Device::cpu()), host));
}

BOOST_AUTO_TEST_CASE(a_step_whose_copies_fail_leaves_nothing_behind) {
  using namespace gradcache;
  ClipSetup setup(11, DType::kFloat32, 0.2);
  for (Parameter p : setup.parameters()) p.move_to(Device::cuda());
  std::vector<Tower> towers;
  for (const Tower& tower : setup.towers()) towers.push_back(tower.upload_to(Device::cuda()));
  StepOptions options{{3}};
  options.device = Device::cuda();
  options.offload = true;
  const auto take = [&] {
    begin_random_step(1, 1);
    return cached_step(towers, setup.loss(), options).loss.item();
  };
  const double expected = take();
  for (Parameter p : setup.parameters()) p.clear_gradient();
  const std::size_t device = allocator(Device::cuda()).stats().current, host = pinned_allocator().stats().current;
  int failures = 0;
  for (int copies = 0;; ++copies) {
    emulation::fail_copy_after(copies);
    try {
      take();
      break;
    } catch (const DeviceError&) {
      ++failures;
    }
    for (const Parameter& p : setup.parameters()) BOOST_REQUIRE(!p.gradient().defined());
    BOOST_REQUIRE_EQUAL(allocator(Device::cuda()).stats().current, device);
    BOOST_REQUIRE_EQUAL(pinned_allocator().stats().current, host);
  }
  emulation::fail_copy_after(-1);
  BOOST_TEST(failures > 30);
  for (Parameter p : setup.parameters()) p.clear_gradient();
  BOOST_TEST(take() == expected);
}

BOOST_AUTO_TEST_CASE(the_host_cannot_read_device_memory) {
  const Tensor x = vector_of({1, 2, 3}).to(Device::cuda());
  const double* there = x.data<double>();
  const pid_t child = fork();
  if (child == 0) {
    std::signal(SIGSEGV, SIG_DFL);
    close(STDERR_FILENO);
    _exit(*static_cast<const volatile double*>(there) == 1 ? 0 : 1);
  }
  int status = 0;
  BOOST_REQUIRE(child > 0 && waitpid(child, &status, 0) == child);
  BOOST_TEST(WIFSIGNALED(status));
}

BOOST_AUTO_TEST_SUITE_END()
