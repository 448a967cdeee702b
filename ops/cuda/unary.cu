#include "tapecache/ops/cuda/cuda_kernels.h"
#include "tapecache/ops/cuda/launch.cuh"
#include "tapecache/ops/cuda/put.cuh"
#include "tapecache/ops/cuda/unary_functions.cuh"

namespace tapecache::kernels::cuda {

namespace {

/// In is T, or BFloat16 where T is float.
template <class T, class In, class Function>
__global__ void unary_kernel(std::int64_t n, Function function, const In* x, In* y) {
  for (std::int64_t i = thread_index(); i < n; i += thread_count()) {
    y[i] = static_cast<In>(function.value(static_cast<T>(x[i])));
  }
}

template <class T, class In, class Function>
__global__ void unary_backward_kernel(std::int64_t n, Function function, const In* saved, const T* dy, T* dx, Mode mode) {
  for (std::int64_t i = thread_index(); i < n; i += thread_count()) {
    const T at = saved ? static_cast<T>(saved[i]) : T{0};  // the derivative of a scale is constant
    put(dx[i], dy[i] * function.derivative(at), mode);
  }
}

__global__ void to_bf16_kernel(std::int64_t n, const float* x, BFloat16* y) {
  for (std::int64_t i = thread_index(); i < n; i += thread_count()) y[i] = BFloat16(x[i]);
}

}  // namespace

template <class T>
void unary(UnaryOp op, double a, double b, std::int64_t n, const T* x, T* y) {
  with_function<T>(op, static_cast<T>(a), static_cast<T>(b), [&]<class Function>(const Function& function) {
    launch(unary_kernel<T, T, Function>, grid_for(n), n, function, x, y);
  });
}

template <class T>
void unary_backward(UnaryOp op, double a, double b, std::int64_t n, const T* saved, const T* dy, T* dx, Mode mode) {
  with_function<T>(op, static_cast<T>(a), static_cast<T>(b), [&]<class Function>(const Function& function) {
    launch(unary_backward_kernel<T, T, Function>, grid_for(n), n, function, saved, dy, dx, mode);
  });
}

void to_bf16(std::int64_t n, const float* x, BFloat16* y) { launch(to_bf16_kernel, grid_for(n), n, x, y); }

void unary_bf16(UnaryOp op, std::int64_t n, const BFloat16* x, BFloat16* y) {
  with_function<float>(op, 0, 0, [&]<class Function>(const Function& function) {
    launch(unary_kernel<float, BFloat16, Function>, grid_for(n), n, function, x, y);
  });
}

void unary_backward_bf16(UnaryOp op, std::int64_t n, const BFloat16* x, const float* dy, float* dx, Mode mode) {
  with_function<float>(op, 0, 0, [&]<class Function>(const Function& function) {
    launch(unary_backward_kernel<float, BFloat16, Function>, grid_for(n), n, function, x, dy, dx, mode);
  });
}

template void unary(UnaryOp, double, double, std::int64_t, const float*, float*);
template void unary(UnaryOp, double, double, std::int64_t, const double*, double*);
template void unary_backward(UnaryOp, double, double, std::int64_t, const float*, const float*, float*, Mode);
template void unary_backward(UnaryOp, double, double, std::int64_t, const double*, const double*, double*, Mode);

}  // namespace tapecache::kernels::cuda
