#include "tapecache/ops/cuda/cuda_kernels.h"
#include "tapecache/ops/cuda/sum_terms.cuh"

namespace tapecache::kernels::cuda {

namespace {

/// The weight of each sample's tokens in its mean: a warp takes a sample.
template <class T>
__global__ void mean_weights_kernel(std::int64_t batch, std::int64_t tokens, const bool* valid, T* weights) {
  for (std::int64_t sample = blockIdx.x; sample < batch; sample += gridDim.x) {
    std::int64_t count = valid ? 0 : tokens;
    if (valid) {
      for (std::int64_t token = threadIdx.x; token < tokens; token += kWarp) count += valid[sample * tokens + token];
      count = warp_reduce(count, Sum{});
    }
    if (threadIdx.x == 0) weights[sample] = T{1} / static_cast<T>(count > 0 ? count : 1);
  }
}

template <class T>
void mean_weights(std::int64_t batch, std::int64_t tokens, const bool* valid, T* weights) {
  launch(mean_weights_kernel<T>, grid_of_rows(batch, kWarp), batch, tokens, valid, weights);
}

template <class T>
struct TokenTerm {
  std::int64_t tokens, width;
  const T *x, *weights;
  const bool* valid;

  __device__ T operator()(std::int64_t i, std::int64_t token) const {
    const std::int64_t sample = i / width, at = sample * tokens + token;
    return valid && !valid[at] ? T{0} : weights[sample] * x[at * width + i - sample * width];
  }
};

template <class T>
__global__ void mean_pool_backward_kernel(std::int64_t n, std::int64_t tokens, std::int64_t width, const bool* valid,
                                          const T* weights, const T* dy, T* dx, Mode mode) {
  for (std::int64_t i = thread_index(); i < n; i += thread_count()) {
    const std::int64_t at = i / width, sample = at / tokens;
    const T weight = !valid || valid[at] ? weights[sample] : T{0};
    put(dx[i], weight * dy[sample * width + i - at * width], mode);
  }
}

template <class T>
__global__ void max_pool_kernel(std::int64_t n, std::int64_t tokens, std::int64_t width, const T* x, const bool* valid,
                                T* y, std::int64_t* argmax) {
  for (std::int64_t i = thread_index(); i < n; i += thread_count()) {
    const std::int64_t sample = i / width, column = i - sample * width;
    T largest{0};
    std::int64_t best = -1;
    for (std::int64_t token = 0; token < tokens; ++token) {
      const std::int64_t at = sample * tokens + token;
      if (valid && !valid[at]) continue;
      const T value = x[at * width + column];
      // A NaN counts as larger than any number.
      if (best < 0 || value > largest || (value != value && largest == largest)) {
        largest = value;
        best = token;
      }
    }
    y[i] = largest;
    argmax[i] = best;
  }
}

template <class T>
__global__ void max_pool_backward_kernel(std::int64_t n, std::int64_t tokens, std::int64_t width,
                                         const std::int64_t* argmax, const T* dy, T* dx, Mode mode) {
  for (std::int64_t i = thread_index(); i < n; i += thread_count()) {
    const std::int64_t at = i / width, sample = at / tokens, from = sample * width + i - at * width;
    put(dx[i], argmax[from] == at - sample * tokens ? dy[from] : T{0}, mode);
  }
}

__global__ void last_token_kernel(std::int64_t batch, std::int64_t tokens, const bool* valid, std::int64_t* index) {
  for (std::int64_t i = thread_index(); i < batch; i += thread_count()) {
    std::int64_t token = tokens - 1;
    while (token > 0 && !valid[i * tokens + token]) --token;
    index[i] = token;
  }
}

__global__ void first_token_kernel(std::int64_t batch, std::int64_t tokens, const bool* valid, const std::int64_t* ids,
                                   std::int64_t id, std::int64_t* index) {
  for (std::int64_t i = thread_index(); i < batch; i += thread_count()) {
    index[i] = -1;
    for (std::int64_t token = 0; token < tokens && index[i] < 0; ++token) {
      const std::int64_t at = i * tokens + token;
      if ((!valid || valid[at]) && (!ids || ids[at] == id)) index[i] = token;
    }
  }
}

__global__ void token_positions_kernel(std::int64_t batch, std::int64_t tokens, std::int64_t first, const bool* valid,
                                       std::int64_t* position) {
  for (std::int64_t i = thread_index(); i < batch; i += thread_count()) {
    std::int64_t next = first;
    for (std::int64_t at = i * tokens; at < (i + 1) * tokens; ++at) position[at] = valid[at] ? next++ : first - 1;
  }
}

template <class T>
__global__ void select_token_kernel(std::int64_t n, std::int64_t tokens, std::int64_t width, const std::int64_t* index,
                                    const T* x, T* y) {
  for (std::int64_t i = thread_index(); i < n; i += thread_count()) {
    const std::int64_t sample = i / width;
    y[i] = x[(sample * tokens + index[sample]) * width + i - sample * width];
  }
}

template <class T>
__global__ void select_token_backward_kernel(std::int64_t n, std::int64_t tokens, std::int64_t width,
                                             const std::int64_t* index, const T* dy, T* dx, Mode mode) {
  for (std::int64_t i = thread_index(); i < n; i += thread_count()) {
    const std::int64_t at = i / width, sample = at / tokens;
    if (at - sample * tokens == index[sample]) put(dx[i], dy[sample * width + i - at * width], mode);
    else if (mode == Mode::kWrite) dx[i] = T{0};
  }
}

template <class T>
void mean_pool(std::int64_t batch, std::int64_t tokens, std::int64_t width, const T* x, const bool* valid, T* y) {
  const Scratch<T> weights(batch);
  mean_weights(batch, tokens, valid, weights.data());
  sum_terms<Adjacent::kSums>(batch * width, tokens, TokenTerm<T>{tokens, width, x, weights.data(), valid}, T{1}, y,
                             Mode::kWrite);
}

// dx = dy / (valid tokens), 0 for padding
template <class T>
void mean_pool_backward(std::int64_t batch, std::int64_t tokens, std::int64_t width, const bool* valid, const T* dy,
                        T* dx, Mode mode) {
  const std::int64_t n = batch * tokens * width;
  const Scratch<T> weights(batch);
  mean_weights(batch, tokens, valid, weights.data());
  launch(mean_pool_backward_kernel<T>, grid_for(n), n, tokens, width, valid, weights.data(), dy, dx, mode);
}

template <class T>
void max_pool(std::int64_t batch, std::int64_t tokens, std::int64_t width, const T* x, const bool* valid, T* y,
              std::int64_t* argmax) {
  const std::int64_t n = batch * width;
  launch(max_pool_kernel<T>, grid_for(n), n, tokens, width, x, valid, y, argmax);
}

template <class T>
void max_pool_backward(std::int64_t batch, std::int64_t tokens, std::int64_t width, const std::int64_t* argmax,
                       const T* dy, T* dx, Mode mode) {
  const std::int64_t n = batch * tokens * width;
  launch(max_pool_backward_kernel<T>, grid_for(n), n, tokens, width, argmax, dy, dx, mode);
}

template <class T>
void last_token(std::int64_t batch, std::int64_t tokens, const bool* valid, std::int64_t* index) {
  launch(last_token_kernel, grid_for(batch), batch, tokens, valid, index);
}

template <class T>
void first_token(std::int64_t batch, std::int64_t tokens, const bool* valid, const std::int64_t* ids, std::int64_t id,
                 std::int64_t* index) {
  launch(first_token_kernel, grid_for(batch), batch, tokens, valid, ids, id, index);
}

template <class T>
void token_positions(std::int64_t batch, std::int64_t tokens, std::int64_t first, const bool* valid,
                     std::int64_t* position) {
  launch(token_positions_kernel, grid_for(batch), batch, tokens, first, valid, position);
}

template <class T>
void select_token(std::int64_t batch, std::int64_t tokens, std::int64_t width, const std::int64_t* index, const T* x,
                  T* y) {
  const std::int64_t n = batch * width;
  launch(select_token_kernel<T>, grid_for(n), n, tokens, width, index, x, y);
}

template <class T>
void select_token_backward(std::int64_t batch, std::int64_t tokens, std::int64_t width, const std::int64_t* index,
                           const T* dy, T* dx, Mode mode) {
  const std::int64_t n = batch * tokens * width;
  launch(select_token_backward_kernel<T>, grid_for(n), n, tokens, width, index, dy, dx, mode);
}

template <class T>
constexpr PoolingKernels<T> kPooling{
    .mean_pool = mean_pool<T>,
    .mean_pool_backward = mean_pool_backward<T>,
    .max_pool = max_pool<T>,
    .max_pool_backward = max_pool_backward<T>,
    .last_token = last_token<T>,
    .first_token = first_token<T>,
    .token_positions = token_positions<T>,
    .select_token = select_token<T>,
    .select_token_backward = select_token_backward<T>,
};

}  // namespace

template <>
const PoolingKernels<float> Provided<PoolingKernels<float>>::kernels = kPooling<float>;
template <>
const PoolingKernels<double> Provided<PoolingKernels<double>>::kernels = kPooling<double>;

}  // namespace tapecache::kernels::cuda
