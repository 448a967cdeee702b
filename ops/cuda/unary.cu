#include "tapecache/ops/cuda/cuda_kernels.h"
#include "tapecache/ops/cuda/launch.cuh"
#include "tapecache/ops/cuda/put.cuh"
#include "tapecache/ops/cuda/unary_functions.cuh"

namespace tapecache::kernels::cuda {

namespace {

/// In is T, or of 16 bits where T is float.
template <class T, class In, class Function>
__global__ void unary_kernel(std::int64_t n, Function function, const In* x, In* y) {
  for (std::int64_t i = thread_index(); i < n; i += thread_count()) {
    y[i] = static_cast<In>(function.value(static_cast<T>(x[i])));
  }
}

/// In and Gradient likewise. dy and dx may be one array.
template <class T, class In, class Gradient, class Function>
__global__ void unary_backward_kernel(std::int64_t n, Function function, const In* saved, const Gradient* dy, Gradient* dx,
                                      Mode mode) {
  for (std::int64_t i = thread_index(); i < n; i += thread_count()) {
    const T at = saved ? static_cast<T>(saved[i]) : T{0};  // the derivative of a scale is constant
    put(dx[i], static_cast<T>(dy[i]) * function.derivative(at), mode);
  }
}

template <class Low>
__global__ void round_kernel(std::int64_t n, const float* x, Low* y) {
  for (std::int64_t i = thread_index(); i < n; i += thread_count()) y[i] = Low(x[i]);
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
    launch(unary_backward_kernel<T, T, T, Function>, grid_for(n), n, function, saved, dy, dx, mode);
  });
}

template <class Low>
void low_round(std::int64_t n, const float* x, Low* y) {
  launch(round_kernel<Low>, grid_for(n), n, x, y);
}

template <class Low>
void low_unary(UnaryOp op, std::int64_t n, const Low* x, Low* y) {
  with_function<float>(op, 0, 0, [&]<class Function>(const Function& function) {
    launch(unary_kernel<float, Low, Function>, grid_for(n), n, function, x, y);
  });
}

template <class Low, class Gradient>
void low_unary_backward(UnaryOp op, std::int64_t n, const Low* x, const Gradient* dy, Gradient* dx, Mode mode) {
  with_function<float>(op, 0, 0, [&]<class Function>(const Function& function) {
    launch(unary_backward_kernel<float, Low, Gradient, Function>, grid_for(n), n, function, x, dy, dx, mode);
  });
}

template void unary(UnaryOp, double, double, std::int64_t, const float*, float*);
template void unary(UnaryOp, double, double, std::int64_t, const double*, double*);
template void unary_backward(UnaryOp, double, double, std::int64_t, const float*, const float*, float*, Mode);
template void unary_backward(UnaryOp, double, double, std::int64_t, const double*, const double*, double*, Mode);
template void low_round(std::int64_t, const float*, BFloat16*);
template void low_round(std::int64_t, const float*, Float16*);
template void low_unary(UnaryOp, std::int64_t, const BFloat16*, BFloat16*);
template void low_unary(UnaryOp, std::int64_t, const Float16*, Float16*);
template void low_unary_backward(UnaryOp, std::int64_t, const BFloat16*, const BFloat16*, BFloat16*, Mode);
template void low_unary_backward(UnaryOp, std::int64_t, const BFloat16*, const float*, float*, Mode);
template void low_unary_backward(UnaryOp, std::int64_t, const Float16*, const Float16*, Float16*, Mode);
template void low_unary_backward(UnaryOp, std::int64_t, const Float16*, const float*, float*, Mode);

}  // namespace tapecache::kernels::cuda
