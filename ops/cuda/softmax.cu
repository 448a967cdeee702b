#include "tapecache/ops/cuda/cuda_kernels.h"
#include "tapecache/ops/cuda/put.cuh"
#include "tapecache/ops/cuda/row_logsumexp.cuh"

namespace tapecache::kernels::cuda {

namespace {

/// Which elements of each row take part; all where no mask is given.
struct Mask {
  const bool* allowed;
  int axes;  // that tell rows apart
  std::int64_t step, sizes[Shape::kMaxRank], strides[Shape::kMaxRank];

  Mask(const bool* mask, const Broadcast& layout) : allowed(mask), axes(mask ? layout.rank - 1 : 0), step(0) {
    if (mask) step = layout.b[static_cast<std::size_t>(axes)];
    for (int i = 0; i < axes; ++i) {
      sizes[i] = layout.sizes[static_cast<std::size_t>(i)];
      strides[i] = layout.b[static_cast<std::size_t>(i)];
    }
  }

  __device__ const bool* of_row(std::int64_t row) const {
    if (!allowed) return nullptr;
    std::int64_t offset = 0;
#pragma unroll  // else the arrays are copied for every thread
    for (int i = Shape::kMaxRank - 1; i >= 0; --i) {
      if (i >= axes) continue;
      offset += row % sizes[i] * strides[i];
      row /= sizes[i];
    }
    return allowed + offset;
  }
};

/// -Inf for elements that are masked out.
template <class T>
struct MaskedElements {
  const T* x;
  const bool* allowed;
  std::int64_t step;
  __device__ T operator()(std::int64_t at) const {
    return !allowed || allowed[at * step] ? x[at] : -std::numeric_limits<T>::infinity();
  }
};

template <class T, class By>
__global__ void __launch_bounds__(kMaxRowThreads)
    softmax_kernel(std::int64_t rows, std::int64_t cols, const T* x, Mask mask, T* y) {
  for (std::int64_t i = By::first_row(); i < rows; i += By::row_step()) {
    const bool* allowed = mask.of_row(i);
    const Row<By, MaskedElements<T>> row(cols, {x + i * cols, allowed, mask.step});
    const T largest = row.maximum();
    // A masked row of -Inf alone has nothing allowed in it (or nothing likely): a shift of 0 leaves its exponentials 0.
    const T shift = allowed && largest == -std::numeric_limits<T>::infinity() ? T{0} : largest;
    const T sum = row.sum([=](std::int64_t, T v) { return std::exp(v - shift); });
    const T factor = sum == T{0} ? T{0} : T{1} / sum;
    row.each([=](std::int64_t at, T v) { y[i * cols + at] = std::exp(v - shift) * factor; });
  }
}

template <class T, class By>
__global__ void __launch_bounds__(kMaxRowThreads)
    softmax_backward_kernel(std::int64_t rows, std::int64_t cols, const T* y, const T* dy, T* dx, Mode mode) {
  for (std::int64_t i = By::first_row(); i < rows; i += By::row_step()) {
    const Row<By, PairedElements<T>> row(cols, {y + i * cols, dy + i * cols});
    const T dot = row.sum([](std::int64_t, Pair<T> v) { return v.first * v.second; });
    row.each([=](std::int64_t at, Pair<T> v) { put(dx[i * cols + at], v.first * (v.second - dot), mode); });
  }
}

template <class T, class By>
__global__ void __launch_bounds__(kMaxRowThreads)
    log_softmax_kernel(std::int64_t rows, std::int64_t cols, const T* x, T* y) {
  for (std::int64_t i = By::first_row(); i < rows; i += By::row_step()) {
    const Row<By, Elements<T>> row(cols, {x + i * cols});
    const LogSumExp<T> normalizer = logsumexp_parts(row);
    row.each([=](std::int64_t at, T v) { y[i * cols + at] = (v - normalizer.shift) - normalizer.rest; });
  }
}

template <class T, class By>
__global__ void __launch_bounds__(kMaxRowThreads)
    log_softmax_backward_kernel(std::int64_t rows, std::int64_t cols, const T* y, const T* dy, T* dx, Mode mode) {
  for (std::int64_t i = By::first_row(); i < rows; i += By::row_step()) {
    const Row<By, PairedElements<T>> row(cols, {y + i * cols, dy + i * cols});
    const T sum = row.sum([](std::int64_t, Pair<T> v) { return v.second; });
    row.each([=](std::int64_t at, Pair<T> v) { put(dx[i * cols + at], v.second - std::exp(v.first) * sum, mode); });
  }
}

template <class T>
void softmax(std::int64_t rows, std::int64_t cols, const T* x, const bool* mask, const Broadcast& layout, T* y) {
  with_row_threads(rows, cols, [&]<class By>(By, const Grid& grid) {
    launch(softmax_kernel<T, By>, grid, rows, cols, x, Mask(mask, layout), y);
  });
}

template <class T>
void softmax_backward(std::int64_t rows, std::int64_t cols, const T* y, const T* dy, T* dx, Mode mode) {
  with_row_threads(rows, cols, [&]<class By>(By, const Grid& grid) {
    launch(softmax_backward_kernel<T, By>, grid, rows, cols, y, dy, dx, mode);
  });
}

template <class T>
void log_softmax(std::int64_t rows, std::int64_t cols, const T* x, T* y) {
  with_row_threads(rows, cols,
                   [&]<class By>(By, const Grid& grid) { launch(log_softmax_kernel<T, By>, grid, rows, cols, x, y); });
}

template <class T>
void log_softmax_backward(std::int64_t rows, std::int64_t cols, const T* y, const T* dy, T* dx, Mode mode) {
  with_row_threads(rows, cols, [&]<class By>(By, const Grid& grid) {
    launch(log_softmax_backward_kernel<T, By>, grid, rows, cols, y, dy, dx, mode);
  });
}

template <class T>
constexpr SoftmaxKernels<T> kSoftmax{
    .softmax = softmax<T>,
    .softmax_backward = softmax_backward<T>,
    .log_softmax = log_softmax<T>,
    .log_softmax_backward = log_softmax_backward<T>,
};

}  // namespace

template <>
const SoftmaxKernels<float> Provided<SoftmaxKernels<float>>::kernels = kSoftmax<float>;
template <>
const SoftmaxKernels<double> Provided<SoftmaxKernels<double>>::kernels = kSoftmax<double>;

}  // namespace tapecache::kernels::cuda
