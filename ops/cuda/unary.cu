#include "tapecache/core/element.h"
#include "tapecache/ops/cuda/cuda_kernels.h"
#include "tapecache/ops/cuda/packs.cuh"
#include "tapecache/ops/cuda/unary_functions.cuh"

namespace tapecache::kernels::cuda {

namespace {

/// y = f(x), computed in T. In is T, or of 16 bits where T is float; so is Out.
template <class T, class In, class Out, class Function>
struct Apply {
  Function function;
  const In* x;
  Out* y;

  template <int kCount>
  __device__ void at(std::int64_t i) const {
    const auto from = read_pack<kCount>(x + i);
    T to[kCount];
#pragma unroll
    for (int k = 0; k < kCount; ++k) to[k] = function.value(static_cast<T>(from.x[k]));
    write_rounded(y + i, to);
  }
};

/// dx = dy f'(saved), or +=. dy and dx may be one array.
template <class T, class In, class Gradient, class Function>
struct ApplyDerivative {
  Function function;
  const In* saved;
  const Gradient* dy;
  Gradient* dx;
  Mode mode;

  template <int kCount>
  __device__ void at(std::int64_t i) const {
    const auto where = read_pack<kCount>(saved + i);
    const auto gradient = read_pack<kCount>(dy + i);
    Pack<Gradient, kCount> before;
    if (mode == Mode::kAccumulate) before = read_pack<kCount>(dx + i);
    T to[kCount];
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      to[k] = chain(function, static_cast<T>(where.x[k]), static_cast<T>(gradient.x[k]));
      if (mode == Mode::kAccumulate) to[k] += static_cast<T>(before.x[k]);
    }
    write_rounded(dx + i, to);
  }
};

/// value = f(x) and gradient *= f'(x), all of one type of 16 bits: x is read once.
template <class Low, class Function>
struct ApplyBoth {
  Function function;
  const Low* x;
  Low *value, *gradient;

  template <int kCount>
  __device__ void at(std::int64_t i) const {
    const auto where = read_pack<kCount>(x + i);
    const auto before = read_pack<kCount>(gradient + i);
    float values[kCount], products[kCount];
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      const auto at = static_cast<float>(where.x[k]);
      values[k] = function.value(at);
      products[k] = chain(function, at, static_cast<float>(before.x[k]));
    }
    write_rounded(value + i, values);
    write_rounded(gradient + i, products);
  }
};

struct Identity {
  __device__ float value(float x) const { return x; }
};

template <class T, class In, class Gradient, class Function>
void apply_derivative(const Function& function, std::int64_t n, const In* saved, const Gradient* dy, Gradient* dx,
                      Mode mode) {
  launch_each(n, ApplyDerivative<T, In, Gradient, Function>{function, saved, dy, dx, mode}, saved, dy, dx);
}

template <class T>
void unary(UnaryOp op, double a, double b, std::int64_t n, const T* x, T* y) {
  with_function<T>(op, static_cast<T>(a), static_cast<T>(b), [&]<class Function>(const Function& function) {
    launch_each(n, Apply<T, T, T, Function>{function, x, y}, x, y);
  });
}

template <class T>
void unary_backward(UnaryOp op, double a, double b, std::int64_t n, const T* saved, const T* dy, T* dx, Mode mode) {
  // A scale has nothing saved; any readable array will do for its constant derivative.
  const T* from = saved ? saved : dy;
  with_function<T>(op, static_cast<T>(a), static_cast<T>(b), [&]<class Function>(const Function& function) {
    apply_derivative<T>(function, n, from, dy, dx, mode);
  });
}

template <class Low>
void low_round(std::int64_t n, const float* x, Low* y) {
  launch_each(n, Apply<float, float, Low, Identity>{{}, x, y}, x, y);
}

template <class Low>
void low_unary(UnaryOp op, std::int64_t n, const Low* x, Low* y) {
  with_function<float, Precision::kOf16Bits>(op, 0, 0, [&]<class Function>(const Function& function) {
    launch_each(n, Apply<float, Low, Low, Function>{function, x, y}, x, y);
  });
}

template <class Low, class Gradient>
void low_unary_backward(UnaryOp op, std::int64_t n, const Low* x, const Gradient* dy, Gradient* dx, Mode mode) {
  with_function<float, Precision::kOf16Bits>(op, 0, 0, [&]<class Function>(const Function& function) {
    apply_derivative<float>(function, n, x, dy, dx, mode);
  });
}

template <class T>
constexpr UnaryKernels<T> kUnary{
    .unary = unary<T>,
    .unary_backward = unary_backward<T>,
};
template <class Low>
requires kLowPrecision<Low>
constexpr UnaryKernels<Low> kUnary<Low>{
    .round = low_round<Low>,
    .unary = low_unary<Low>,
    .unary_backward = low_unary_backward<Low, Low>,
    .unary_backward_to_f32 = low_unary_backward<Low, float>,
};

}  // namespace

template <class Low>
void low_value_and_derivative(UnaryOp op, std::int64_t n, const Low* x, Low* value, Low* gradient) {
  with_function<float, Precision::kOf16Bits>(op, 0, 0, [&]<class Function>(const Function& function) {
    launch_each(n, ApplyBoth<Low, Function>{function, x, value, gradient}, x, value, gradient);
  });
}

template void low_value_and_derivative(UnaryOp, std::int64_t, const BFloat16*, BFloat16*, BFloat16*);
template void low_value_and_derivative(UnaryOp, std::int64_t, const Float16*, Float16*, Float16*);

template <>
const UnaryKernels<float> Provided<UnaryKernels<float>>::kernels = kUnary<float>;
template <>
const UnaryKernels<double> Provided<UnaryKernels<double>>::kernels = kUnary<double>;
template <>
const UnaryKernels<BFloat16> Provided<UnaryKernels<BFloat16>>::kernels = kUnary<BFloat16>;
template <>
const UnaryKernels<Float16> Provided<UnaryKernels<Float16>>::kernels = kUnary<Float16>;

}  // namespace tapecache::kernels::cuda
