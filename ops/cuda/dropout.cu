#include "tapecache/ops/cuda/cuda_kernels.h"
#include "tapecache/ops/cuda/launch.cuh"
#include "tapecache/ops/cuda/put.cuh"

namespace tapecache::kernels::cuda {

namespace {

__device__ inline std::uint32_t id_of(const Samples& samples, std::int64_t i) {
  return static_cast<std::uint32_t>(samples.ids ? samples.ids[i] : samples.first + i);
}

/// x / (1 - p), or 0 where the draw says so.
template <class T>
struct Drop {
  T factor;
  float probability;

  explicit Drop(double p) : factor(T{1} / (T{1} - static_cast<T>(p))), probability(static_cast<float>(p)) {}
  __device__ bool keeps(std::uint32_t word) const { return RandomKey::uniform(word) >= probability; }
  // Not a product with 0: a dropped NaN or Inf is dropped.
  __device__ T value(T x, bool keep) const { return keep ? x * factor : T{0}; }
};

template <class T>
struct DropElement {
  Drop<T> drop;
  const T* x;
  T* y;
  Mode mode;
  __device__ void operator()(std::int64_t i, std::uint32_t word) const {
    put(y[i], drop.value(x[i], drop.keeps(word)), mode);
  }
};

template <class T>
struct StoreUniform {
  T* y;
  __device__ void operator()(std::int64_t i, std::uint32_t word) const {
    y[i] = static_cast<T>(RandomKey::uniform(word));
  }
};

/// use(i, draw) for each element i; a thread takes the four elements that a block of Philox serves.
template <class Use>
__global__ void draw_kernel(RandomKey key, Samples samples, std::int64_t per_sample, Use use) {
  const std::int64_t blocks = (per_sample + 3) / 4;
  key = key.now();
  for (std::int64_t i = thread_index(); i < samples.count * blocks; i += thread_count()) {
    const std::int64_t sample = i / blocks, block = i % blocks, first = 4 * block;
    const auto words = key.draw(id_of(samples, sample), static_cast<std::uint32_t>(block));
    for (std::int64_t j = 0; j < 4 && first + j < per_sample; ++j) {
      use(sample * per_sample + first + j, words[static_cast<std::size_t>(j)]);
    }
  }
}

template <class Use>
void draw(const RandomKey& key, const Samples& samples, std::int64_t per_sample, const Use& use) {
  launch(draw_kernel<Use>, grid_for(samples.count * divide_up(per_sample, 4)), key, samples, per_sample, use);
}

constexpr std::int64_t kPiece = 4096;

/// A block takes a piece of one sample.
template <class T>
__global__ void drop_path_kernel(RandomKey key, Samples samples, std::int64_t pieces, std::int64_t per_sample,
                                 Drop<T> drop, const T* x, T* y, Mode mode) {
  key = key.now();
  for (std::int64_t i = blockIdx.x; i < samples.count * pieces; i += gridDim.x) {
    const std::int64_t sample = i / pieces, first = i % pieces * kPiece;
    const std::int64_t last = first + kPiece < per_sample ? first + kPiece : per_sample;
    const bool keep = drop.keeps(key.draw(id_of(samples, sample), 0)[0]);
    if (!keep && mode == Mode::kAccumulate) continue;
    for (std::int64_t j = sample * per_sample + first + threadIdx.x; j < sample * per_sample + last; j += blockDim.x) {
      put(y[j], drop.value(keep ? x[j] : T{0}, keep), mode);
    }
  }
}

template <class T>
void dropout(const RandomKey& key, const Samples& samples, std::int64_t per_sample, double probability, const T* x,
             T* y, Mode mode) {
  draw(key, samples, per_sample, DropElement<T>{Drop<T>(probability), x, y, mode});
}

template <class T>
void drop_path(const RandomKey& key, const Samples& samples, std::int64_t per_sample, double probability, const T* x,
               T* y, Mode mode) {
  const std::int64_t pieces = divide_up(per_sample, kPiece);
  launch(drop_path_kernel<T>, grid_of_rows(samples.count * pieces), key, samples, pieces, per_sample,
         Drop<T>(probability), x, y, mode);
}

template <class T>
void sample_uniform(const RandomKey& key, const Samples& samples, std::int64_t per_sample, T* y) {
  draw(key, samples, per_sample, StoreUniform<T>{y});
}

template <class T>
constexpr DropoutKernels<T> kDropout{
    .dropout = dropout<T>,
    .drop_path = drop_path<T>,
    .sample_uniform = sample_uniform<T>,
};

}  // namespace

template <>
const DropoutKernels<float> Provided<DropoutKernels<float>>::kernels = kDropout<float>;
template <>
const DropoutKernels<double> Provided<DropoutKernels<double>>::kernels = kDropout<double>;

}  // namespace tapecache::kernels::cuda
