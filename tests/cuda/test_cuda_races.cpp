#include <boost/test/unit_test.hpp>

#include "gradcache_checks.h"
#include "tapecache/core/error.h"
#include "tapecache/core/tensor.h"
#include "tapecache/ops/cuda/launch.cuh"
#include "tapecache/ops/cuda/tensor_cores.cuh"

// Kernels that are wrong in ways which other tests may not see, and their right counterparts: what an emulated build
// that looks for races says of them.

using namespace tapecache;
using namespace tapecache::testing;
using namespace tapecache::kernels::cuda;

namespace {

enum class Barriers { kNone, kBlock, kWarp };

template <Barriers kind>
__device__ void meet() {
  if constexpr (kind == Barriers::kBlock) __syncthreads();
  if constexpr (kind == Barriers::kWarp) __syncwarp();
}

/// Each thread takes the value of the one before it, twice. `before_read` and `before_write` are the barriers that this
/// needs.
template <Barriers before_read, Barriers before_write>
__global__ void pass_on_kernel(double* x) {
  double* kept = dynamic_shared<double>();
  const unsigned i = threadIdx.x, n = blockDim.x;
  double value = x[i];
  for (int round = 0; round < 2; ++round) {
    kept[i] = value;
    meet<before_read>();
    value = kept[(i + n - 1) % n];
    meet<before_write>();
  }
  x[i] = value;
}

/// The same by a register of the lane before: no memory is shared.
__global__ void pass_on_by_shuffles_kernel(double* x) {
  double value = x[threadIdx.x];
  for (int round = 0; round < 2; ++round) value = __shfl_sync(~0u, value, static_cast<int>((threadIdx.x + 31) % 32));
  x[threadIdx.x] = value;
}

/// A shuffle makes lanes meet, but does not order what they do to memory.
__global__ void shuffle_for_a_barrier_kernel(double* x) {
  double* kept = dynamic_shared<double>();
  kept[threadIdx.x] = x[threadIdx.x];
  __shfl_sync(~0u, 0, 0);
  x[threadIdx.x] = kept[31 - threadIdx.x];
}

__global__ void sum_into_one_place_kernel(double* sum) {
  if (threadIdx.x == 0) sum[blockIdx.x / 2] += blockIdx.x;
}

__global__ void read_the_next_block_kernel(const double* x, double* y) {
  if (threadIdx.x > 0) return;
  y[blockIdx.x] = x[0];
  if (blockIdx.x == gridDim.x - 1) const_cast<double*>(x)[0] = 1;
}

__global__ void own_places_kernel(double* x) {
  double* kept = dynamic_shared<double>();
  kept[threadIdx.x] = x[thread_index()];
  __syncthreads();
  x[thread_index()] = kept[blockDim.x - 1 - threadIdx.x];
}

/// The two halves of a word belong to two threads.
__global__ void halves_kernel(std::int32_t* x) { reinterpret_cast<std::int16_t*>(x)[thread_index()] = 7; }

template <bool barrier>
__global__ void copy_async_kernel(const double* x, double* y) {
  double* kept = dynamic_shared<double>();
  copy_async<8>(kept + threadIdx.x, x + threadIdx.x, true);
  commit_copies();
  wait_for_copies<0>();
  if constexpr (barrier) __syncthreads();
  y[threadIdx.x] = kept[blockDim.x - 1 - threadIdx.x];
}

struct Fixture {
  Tensor x = Tensor::zeros({64}, DType::kFloat64, Device::cuda()),
         y = Tensor::zeros({64}, DType::kFloat64, Device::cuda());

  template <class Kernel, class... Arguments>
  void runs(Kernel kernel, unsigned blocks, unsigned threads, const Arguments&... arguments) {
    BOOST_CHECK_NO_THROW(launch(kernel, Grid{blocks, threads, threads * sizeof(double)}, arguments...));
  }

  template <class Kernel, class... Arguments>
  void fails(const std::string& what, Kernel kernel, unsigned blocks, unsigned threads, const Arguments&... arguments) {
    BOOST_CHECK_EXCEPTION(launch(kernel, Grid{blocks, threads, threads * sizeof(double)}, arguments...), DeviceError,
                          says({"race: thread", what, "no barrier between"}));
  }

  double* to() { return x.mutable_data<double>(); }
};

}  // namespace

BOOST_FIXTURE_TEST_SUITE(races, Fixture)

BOOST_AUTO_TEST_CASE(a_block_needs_its_barriers) {
  runs(pass_on_kernel<Barriers::kBlock, Barriers::kBlock>, 1, 64, to());
  fails("reads what another wrote", pass_on_kernel<Barriers::kNone, Barriers::kBlock>, 1, 64, to());
  fails("what another", pass_on_kernel<Barriers::kBlock, Barriers::kNone>, 1, 64, to());
}

BOOST_AUTO_TEST_CASE(a_warp_needs_its_barriers) {
  runs(pass_on_kernel<Barriers::kWarp, Barriers::kWarp>, 1, 32, to());
  fails("reads what another wrote", pass_on_kernel<Barriers::kNone, Barriers::kWarp>, 1, 32, to());
  fails("what another", pass_on_kernel<Barriers::kWarp, Barriers::kNone>, 1, 32, to());
}

BOOST_AUTO_TEST_CASE(a_barrier_of_each_warp_is_none_of_the_block) {
  fails("what another", pass_on_kernel<Barriers::kWarp, Barriers::kBlock>, 1, 64, to());
  fails("what another", pass_on_kernel<Barriers::kBlock, Barriers::kWarp>, 1, 64, to());
}

BOOST_AUTO_TEST_CASE(shuffles_order_no_memory) {
  runs(pass_on_by_shuffles_kernel, 1, 32, to());
  fails("reads what another wrote", shuffle_for_a_barrier_kernel, 1, 32, to());
}

BOOST_AUTO_TEST_CASE(blocks_are_in_no_order) {
  runs(sum_into_one_place_kernel, 1, 32, to());
  fails("in global memory", sum_into_one_place_kernel, 2, 32, to());
  fails("writes what another read", read_the_next_block_kernel, 3, 32, x.data<double>(), y.mutable_data<double>());
}

BOOST_AUTO_TEST_CASE(each_block_has_shared_memory_of_its_own) { runs(own_places_kernel, 2, 32, to()); }

BOOST_AUTO_TEST_CASE(threads_may_share_a_word) {
  Tensor words = Tensor::zeros({32}, DType::kInt32, Device::cuda());
  runs(halves_kernel, 2, 32, words.mutable_data<std::int32_t>());
}

BOOST_AUTO_TEST_CASE(a_launch_comes_after_the_one_before) {
  for (int i = 0; i < 2; ++i) runs(own_places_kernel, 1, 64, to());
  runs(read_the_next_block_kernel, 1, 32, x.data<double>(), y.mutable_data<double>());
}

BOOST_AUTO_TEST_CASE(a_copy_beside_computing_is_seen_by_others_behind_a_barrier) {
  runs(copy_async_kernel<true>, 1, 64, x.data<double>(), y.mutable_data<double>());
  fails("in shared memory", copy_async_kernel<false>, 1, 64, x.data<double>(), y.mutable_data<double>());
}

BOOST_AUTO_TEST_SUITE_END()
