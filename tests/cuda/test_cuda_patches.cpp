#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include "checks.h"
#include "cuda_device.h"
#include "tapecache/core/element.h"
#include "tapecache/ops/cuda/divisor.h"
#include "tapecache/ops/kernels/table.h"

// Images as rows of patches on a CUDA device, bit for bit as on the CPU, at sizes for which its kernel takes other
// packs of pixels together.

using namespace tapecache;
using namespace tapecache::kernels;
using namespace tapecache::testing;

namespace {

struct Images {
  std::int64_t batch, channels, height, width, patch;
  std::int64_t count() const { return batch * channels * height * width; }
};

const std::vector<Images> kImages{{2, 3, 64, 96, 32},  // wide packs, several times over for a thread
                                  {3, 3, 28, 42, 14},  // packs of two
                                  {2, 2, 20, 12, 4},  {1, 3, 16, 48, 16}, {3, 1, 24, 40, 8},  {2, 3, 12, 18, 6},
                                  {2, 3, 15, 25, 5},  {2, 2, 21, 7, 7},  // single pixels
                                  {3, 5, 4, 7, 1},    {1, 1, 1, 1, 1},    {1, 2, 1, 1500, 1}, {70, 1, 2, 2, 2},
                                  {0, 3, 8, 8, 4},    {2, 3, 0, 8, 4},    {2, 3, 8, 0, 4}};

/// Values on a device that begin so many elements behind the start of their memory, and have zeros on both sides.
struct Placed {
  Tensor memory, values;

  Placed(const Tensor& x, std::int64_t offset, Device device) {
    const std::int64_t end = offset + x.numel();
    Tensor here = Tensor::zeros({end + 16}, x.dtype());
    here.slice(offset, end).copy_from(x);
    memory = here.to(device);
    values = memory.slice(offset, end);
  }
};

template <class T>
void check_patches(const Images& m, std::int64_t from, std::int64_t to) {
  const DType type = dtype_of<T>(), computed = dtype_of<ComputedType<T>>();
  const Tensor images = random_values({m.count()}, 1, computed), before = random_values({m.count()}, 2, type);
  const std::string what = std::string(name(type)) + ", patch " + std::to_string(m.patch) + ", width " +
                           std::to_string(m.width) + ", offsets " + std::to_string(from) + " and " + std::to_string(to);
  const auto rows_on = [&](Device device) {
    const Placed x(images, from, device);
    Placed rows(before, to, device);
    find(&PatchKernels<T>::patches, "patches", device)(m.batch, m.channels, m.height, m.width, m.patch,
                                                       x.values.data<ComputedType<T>>(), rows.values.mutable_data<T>());
    return rows;
  };
  const Placed rows = rows_on(Device::cpu());
  BOOST_TEST(same_bits(rows_on(kCuda).memory, rows.memory), what);
  if constexpr (std::is_same_v<T, ComputedType<T>>) {
    for (const Mode mode : {Mode::kWrite, Mode::kAccumulate}) {
      const auto images_on = [&](Device device) {
        const Placed drows(rows.values, from, device);
        Placed dx(before, to, device);
        find(&PatchKernels<T>::patches_backward, "patches_backward", device)(
            m.batch, m.channels, m.height, m.width, m.patch, drows.values.data<T>(), dx.values.mutable_data<T>(), mode);
        return dx;
      };
      const Placed dx = images_on(Device::cpu());
      BOOST_TEST(same_bits(images_on(kCuda).memory, dx.memory),
                 what + (mode == Mode::kWrite ? ", written back" : ", added back"));
      if (mode == Mode::kWrite) BOOST_TEST(same_bits(dx.values, images), what);
    }
  }
}

}  // namespace

BOOST_AUTO_TEST_SUITE(cuda)

BOOST_AUTO_TEST_CASE(patches_of_any_size_and_alignment, *on_device) {
  for (const Images& m : kImages) {
    for (const auto& [from, to] : {std::pair{0, 0}, {1, 0}, {0, 1}, {2, 2}, {4, 2}, {3, 5}}) {
      check_patches<float>(m, from, to);
      check_patches<double>(m, from, to);
      check_patches<BFloat16>(m, from, to);
      check_patches<Float16>(m, from, to);
    }
  }
}

BOOST_AUTO_TEST_CASE(quotients_without_a_division) {
  constexpr std::int64_t kLimit = std::int64_t{1} << 31;
  std::vector<std::int64_t> numbers;
  for (std::int64_t n = 1; n < 300; ++n) numbers.push_back(n);
  for (int bit = 9; bit < 40; ++bit) {
    for (const std::int64_t by : {-1, 0, 1}) numbers.push_back((std::int64_t{1} << bit) + by);
  }
  for (const std::int64_t n : {12345678, 1000000007, 2147483629}) numbers.push_back(n);
  for (const std::int64_t d : numbers) {
    const kernels::cuda::Divisor divisor(d);
    std::vector<std::int64_t> dividends = numbers;
    for (const std::int64_t near : {kLimit / d * d, (kLimit / d - 1) * d}) {
      for (const std::int64_t by : {-1, 0, 1}) dividends.push_back(near + by);
    }
    for (const std::int64_t n : dividends) {
      if (n >= 0 && divisor.quotient(n) != n / d) BOOST_ERROR(n << " / " << d << " is not " << divisor.quotient(n));
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
