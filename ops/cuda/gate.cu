#include "tapecache/core/element.h"
#include "tapecache/ops/cuda/cuda_kernels.h"
#include "tapecache/ops/cuda/launch.cuh"
#include "tapecache/ops/cuda/put.cuh"
#include "tapecache/ops/cuda/unary_functions.cuh"

namespace tapecache::kernels::cuda {

namespace {

template <class T, class Function>
__global__ void gate_kernel(Function function, std::int64_t rows, std::int64_t width, const T* x, T* y) {
  using Computed = ComputedType<T>;
  for (std::int64_t i = thread_index(); i < rows * width; i += thread_count()) {
    const T* at = x + i / width * 2 * width + i % width;
    y[i] = T(function.value(static_cast<Computed>(at[0])) * static_cast<Computed>(at[width]));
  }
}

template <class T, class Function>
__global__ void gate_backward_kernel(Function function, std::int64_t rows, std::int64_t width, const T* x, const T* dy,
                                     T* dx, Mode mode) {
  using Computed = ComputedType<T>;
  for (std::int64_t i = thread_index(); i < rows * width; i += thread_count()) {
    const std::int64_t at = i / width * 2 * width + i % width;
    const Computed a = static_cast<Computed>(x[at]), b = static_cast<Computed>(x[at + width]);
    const Computed gradient = static_cast<Computed>(dy[i]);
    put(dx[at], chain(function, a, gradient * b), mode);
    put(dx[at + width], gradient * function.value(a), mode);
  }
}

/// Calls `f` with the function of an activation.
template <class T, class F>
void with_activation(UnaryOp op, const F& f) {
  if (op == UnaryOp::kGelu) f(Gelu<T>{});
  else if (op == UnaryOp::kGeluTanh) f(GeluTanh<T, Precision::kFull>{});
  else if (op == UnaryOp::kQuickGelu) f(QuickGelu<T, Precision::kFull>{});
  else if (op == UnaryOp::kSilu) f(Silu<T, Precision::kFull>{});
  else f(Relu<T>{});
}

template <class T>
void gate(UnaryOp op, std::int64_t rows, std::int64_t width, const T* x, T* y) {
  with_activation<ComputedType<T>>(op, [&]<class Function>(const Function& function) {
    launch(gate_kernel<T, Function>, grid_for(rows * width), function, rows, width, x, y);
  });
}

template <class T>
void gate_backward(UnaryOp op, std::int64_t rows, std::int64_t width, const T* x, const T* dy, T* dx, Mode mode) {
  with_activation<ComputedType<T>>(op, [&]<class Function>(const Function& function) {
    launch(gate_backward_kernel<T, Function>, grid_for(rows * width), function, rows, width, x, dy, dx, mode);
  });
}

template <class T>
constexpr GateKernels<T> kGate{.gate = gate<T>, .gate_backward = gate_backward<T>};

}  // namespace

template <>
const GateKernels<float> Provided<GateKernels<float>>::kernels = kGate<float>;
template <>
const GateKernels<double> Provided<GateKernels<double>>::kernels = kGate<double>;
template <>
const GateKernels<BFloat16> Provided<GateKernels<BFloat16>>::kernels = kGate<BFloat16>;
template <>
const GateKernels<Float16> Provided<GateKernels<Float16>>::kernels = kGate<Float16>;

}  // namespace tapecache::kernels::cuda
