#include <boost/test/unit_test.hpp>

#include <cmath>
#include <tuple>

#include "checks.h"
#include "tapecache/core/error.h"
#include "tapecache/core/op_scope.h"
#include "tapecache/core/tensor.h"
#include "tapecache/ops/cuda/attention_tensor.h"
#include "tapecache/ops/cuda/launch.cuh"
#include "tapecache/ops/cuda/tensor_cores.cuh"

// The emulation of tensor cores, against the layouts of the PTX ISA, element by element; and which attention uses them.

using namespace tapecache;
using namespace tapecache::testing;
using namespace tapecache::kernels::cuda;

namespace {

// "Matrix Fragments for mma.m16n8k16": element i of a lane's fragment, as the PTX ISA writes it.
struct Place {
  int row, col;
};
Place place_in_a(int lane, int i) {
  const int group = lane >> 2, in_group = lane % 4;
  return {(i >= 0 && i < 2) || (i >= 4 && i < 6) ? group : group + 8, in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0)};
}
Place place_in_b(int lane, int i) { return {lane % 4 * 2 + (i & 1) + (i >= 2 ? 8 : 0), lane >> 2}; }
Place place_in_c(int lane, int i) { return {i < 2 ? lane >> 2 : (lane >> 2) + 8, lane % 4 * 2 + (i & 1)}; }

template <class Low>
std::uint32_t two(const Low* x, int first, int second) {
  return x[first].bits | static_cast<std::uint32_t>(x[second].bits) << 16;
}

template <class Low>
__global__ void mma_kernel(const Low* a, const Low* b, const float* c, float* d) {
  const int lane = static_cast<int>(threadIdx.x);
  std::uint32_t left[4], right[2];
  float sums[4];
  const auto at = [](Place p, int cols) { return p.row * cols + p.col; };
  for (int i = 0; i < 4; ++i) left[i] = two(a, at(place_in_a(lane, 2 * i), 16), at(place_in_a(lane, 2 * i + 1), 16));
  for (int i = 0; i < 2; ++i) right[i] = two(b, at(place_in_b(lane, 2 * i), 8), at(place_in_b(lane, 2 * i + 1), 8));
  for (int i = 0; i < 4; ++i) sums[i] = c[at(place_in_c(lane, i), 8)];
  mma_m16n8k16<Low>(sums, left, right[0], right[1]);
  for (int i = 0; i < 4; ++i) d[at(place_in_c(lane, i), 8)] = sums[i];
}

/// Row l of the 32 rows of 8, from lane l; what a lane gets, register by register.
__global__ void load_kernel(bool transposed, const std::int32_t* x, std::int32_t* registers) {
  auto* rows = dynamic_shared<std::uint16_t>();
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = 0; i < 8; ++i) rows[lane * 8 + i] = static_cast<std::uint16_t>(x[lane * 8 + i]);
  __syncwarp();
  std::uint32_t got[4];
  if (transposed) load_matrix_x4_transposed(rows + lane * 8, got);
  else load_matrix_x4(rows + lane * 8, got);
  for (int m = 0; m < 4; ++m) registers[lane * 4 + m] = static_cast<std::int32_t>(got[m]);
}

__global__ void misaligned_kernel() {
  std::uint32_t got[4];
  load_matrix_x4(dynamic_shared<std::uint16_t>() + 8 * threadIdx.x + (threadIdx.x == 5), got);
}

__global__ void load_outside_kernel() {
  std::uint32_t got[4];
  load_matrix_x4(dynamic_shared<std::uint16_t>() + 8 * threadIdx.x, got);
}

__global__ void divergent_mma_kernel(float* d) {
  float c[4] = {};
  const std::uint32_t a[4] = {};
  if (threadIdx.x != 7) mma_m16n8k16<BFloat16>(c, a, 0, 0);
  d[threadIdx.x] = c[0];
}

__global__ void copy_kernel(const float* from, float* to) {
  float* place = dynamic_shared<float>() + 12 * threadIdx.x;
  for (int i = 0; i < 12; ++i) place[i] = 5;
  copy_async<16>(place, from + 8 * threadIdx.x, true);
  commit_copies();
  copy_async<16>(place + 4, from + 8 * threadIdx.x + 4, true);
  commit_copies();
  copy_async<8>(place + 8, from, false);
  commit_copies();
  float* row = to + 40 * threadIdx.x;
  const auto look = [&](int step) {
    for (int i = 0; i < 10; ++i) row[step * 10 + i] = place[i];
  };
  look(0);
  wait_for_copies<2>();
  look(1);
  wait_for_copies<1>();
  look(2);
  wait_for_copies<0>();
  look(3);
}

__global__ void misaligned_copy_kernel(const float* from) { copy_async<16>(dynamic_shared<float>(), from + 1, true); }

Tensor device_of(const Tensor& t) { return t.to(Device::cuda()); }

bool takes(const kernels::Attention& layout, std::int64_t offset = 0) {
  const std::int64_t numel = layout.batch * layout.tokens * layout.heads * layout.width;
  const Tensor qkv = Tensor::zeros({3 * numel + 16}, DType::kBFloat16, Device::cuda());
  const Tensor low = Tensor::zeros({numel}, DType::kBFloat16, Device::cuda());
  Tensor y = Tensor::zeros({numel}, DType::kBFloat16, Device::cuda());
  Tensor dqkv = Tensor::zeros({3 * numel}, DType::kBFloat16, Device::cuda());
  Tensor sums = Tensor::zeros({layout.batch * layout.heads * layout.tokens}, DType::kFloat32, Device::cuda());
  const BFloat16* from = qkv.data<BFloat16>() + offset;
  const bool forward = tensor_attention(layout, from, nullptr, y.mutable_data<BFloat16>(), sums.mutable_data<float>());
  const bool backward =
      tensor_attention_backward(layout, from, nullptr, low.data<BFloat16>(), sums.data<float>(), low.data<BFloat16>(),
                                dqkv.mutable_data<BFloat16>(), kernels::Mode::kWrite);
  BOOST_TEST(forward == backward);
  return forward;
}

using LowTypes = std::tuple<BFloat16, Float16>;

}  // namespace

BOOST_AUTO_TEST_SUITE(tensor_cores)

BOOST_AUTO_TEST_CASE_TEMPLATE(a_product_is_that_of_the_documented_elements, Low, LowTypes) {
  const Tensor a = random_values({16, 16}, 1, dtype_of<Low>()), b = random_values({16, 8}, 2, dtype_of<Low>());
  const Tensor c = random_values({16, 8}, 3, DType::kFloat32);
  Tensor d = Tensor::zeros({16, 8}, DType::kFloat32, Device::cuda());
  launch(mma_kernel<Low>, Grid{1, 32}, device_of(a).data<Low>(), device_of(b).data<Low>(), device_of(c).data<float>(),
         d.mutable_data<float>());
  const std::vector<double> left = doubles(a), right = doubles(b), before = doubles(c), found = doubles(d);
  for (std::size_t i = 0; i < 16; ++i) {
    for (std::size_t j = 0; j < 8; ++j) {
      double sum = before[i * 8 + j];
      for (std::size_t k = 0; k < 16; ++k) sum += left[i * 16 + k] * right[k * 8 + j];
      BOOST_TEST(std::abs(found[i * 8 + j] - sum) <= 1e-6);
    }
  }
}

BOOST_AUTO_TEST_CASE(matrices_are_loaded_as_documented) {
  std::vector<double> values;
  for (int i = 0; i < 256; ++i) values.push_back(i);
  const Tensor x = device_of(vector_of(values).to(DType::kInt32));
  for (const bool transposed : {false, true}) {
    Tensor registers = Tensor::zeros({128}, DType::kInt32, Device::cuda());
    launch(load_kernel, Grid{1, 32, 512}, transposed, x.data<std::int32_t>(), registers.mutable_data<std::int32_t>());
    const std::vector<double> found = doubles(registers);
    for (int lane = 0; lane < 32; ++lane) {
      for (int m = 0; m < 4; ++m) {
        const int i = lane / 4, pair = lane % 4 * 2;
        const int low = m * 64 + (transposed ? pair * 8 + i : i * 8 + pair);
        const int high = m * 64 + (transposed ? (pair + 1) * 8 + i : i * 8 + pair + 1);
        BOOST_TEST(found[static_cast<std::size_t>(lane * 4 + m)] == low + 65536.0 * high);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(wrong_places_are_faults) {
  const OpScope scope("some_op");
  const Tensor x = device_of(Tensor::zeros({8}, DType::kFloat32));
  BOOST_CHECK_EXCEPTION(launch(misaligned_kernel, Grid{1, 32, 1024}), DeviceError, says({"some_op:", "ldmatrix"}));
  BOOST_CHECK_EXCEPTION(launch(load_outside_kernel, Grid{1, 32, 496}), DeviceError, says({"ldmatrix"}));
  BOOST_CHECK_EXCEPTION(launch(misaligned_copy_kernel, Grid{1, 1, 16}, x.data<float>()), DeviceError,
                        says({"cp.async"}));
  BOOST_CHECK_EXCEPTION(launch(divergent_mma_kernel, Grid{1, 32},
                               Tensor::zeros({32}, DType::kFloat32, Device::cuda()).mutable_data<float>()),
                        DeviceError, says({"not all lanes"}));
  launch(load_outside_kernel, Grid{1, 32, 512});
}

BOOST_AUTO_TEST_CASE(copies_are_there_when_they_have_been_waited_for) {
  const Tensor from = random_values({64}, 4, DType::kFloat32);
  Tensor to = Tensor::zeros({8, 40}, DType::kFloat32, Device::cuda());
  launch(copy_kernel, Grid{1, 8, 8 * 48}, device_of(from).data<float>(), to.mutable_data<float>());
  const std::vector<double> expected = doubles(from), found = doubles(to);
  for (std::size_t thread = 0; thread < 8; ++thread) {
    for (std::size_t step = 0; step < 4; ++step) {
      const double* place = found.data() + thread * 40 + step * 10;
      for (std::size_t i = 0; i < 4; ++i) {
        BOOST_TEST((step >= 1 ? place[i] == expected[thread * 8 + i] : std::isnan(place[i])));
        BOOST_TEST((step >= 2 ? place[4 + i] == expected[thread * 8 + 4 + i] : std::isnan(place[4 + i])));
      }
      for (std::size_t i = 8; i < 10; ++i) BOOST_TEST((step == 3 ? place[i] == 0 : std::isnan(place[i])));
    }
  }
}

BOOST_AUTO_TEST_CASE(pairs_are_rounded_to_nearest_even) {
  const std::uint32_t pair = pack<BFloat16>(1.00390625f, -3);  // half way between two
  BOOST_TEST(pair == 0xc0403f80u);
  BOOST_TEST(unpack<BFloat16>(pair).low == 1);
  BOOST_TEST(unpack<BFloat16>(pair).high == -3);
  BOOST_TEST(pack<Float16>(1.00048828125f, -3) == 0xc2003c00u);
  BOOST_TEST(unpack<Float16>(0xc2003c01u).low == 1.0009765625f);
}

BOOST_AUTO_TEST_CASE(the_shapes_of_transformers_are_taken) {
  BOOST_TEST(takes({1, 257, 2, 64, 0.125}));
  BOOST_TEST(takes({2, 50, 2, 64, 0.125}));
  BOOST_TEST(takes({2, 77, 2, 64, 0.125, true}));
  for (const std::int64_t width : {16, 32, 48, 80, 96, 112, 128}) BOOST_TEST(takes({1, 3, 1, width, 0.1}));
  for (const std::int64_t width : {8, 24, 72, 144}) BOOST_TEST(!takes({1, 3, 1, width, 0.1}));
  BOOST_TEST(takes({1, 3, 1, 64, 0.1}, 8));
  BOOST_TEST(!takes({1, 3, 1, 64, 0.1}, 4));
}

BOOST_AUTO_TEST_SUITE_END()
