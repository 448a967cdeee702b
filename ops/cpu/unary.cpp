#include "tapecache/core/element.h"
#include "tapecache/ops/cpu/unary_functions.h"

namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT {

namespace {

using unary_functions::with_function;

constexpr std::int64_t kBlock = 8192;

/// y[i] = f(x[i])
template <class In, class Out>
void apply(UnaryOp op, double a, double b, std::int64_t n, const In* x, Out* y) {
  with_function(op, a, b, [=](auto function) {
    parallel_for(n, kBlock, [=](std::int64_t begin, std::int64_t end) {
      map(
          end - begin, y + begin, [=](auto v) TAPECACHE_INLINE { return function.value(v); }, x + begin);
    });
  });
}

/// dx[i] = or += dy[i] f'(saved[i])
template <class Saved, class Gradient>
void apply_backward(UnaryOp op, double a, double b, std::int64_t n, const Saved* saved, const Gradient* dy,
                    Gradient* dx, Mode mode) {
  with_function(op, a, b, [=](auto function) {
    parallel_for(n, kBlock, [=](std::int64_t begin, std::int64_t end) {
      const auto of_gradient = [=](auto v, auto g) TAPECACHE_INLINE { return unary_functions::chain(function, v, g); };
      map_to(mode, end - begin, dx + begin, of_gradient, saved + begin, dy + begin);
    });
  });
}

template <class T>
void unary(UnaryOp op, double a, double b, std::int64_t n, const T* x, T* y) {
  apply(op, a, b, n, x, y);
}

template <class T>
void unary_backward(UnaryOp op, double a, double b, std::int64_t n, const T* saved, const T* dy, T* dx, Mode mode) {
  // A scale has nothing saved; any readable array will do for its constant derivative.
  apply_backward(op, a, b, n, saved ? saved : dy, dy, dx, mode);
}

template <class Low>
void low_round(std::int64_t n, const float* x, Low* y) {
  parallel_for(n, kBlock, [=](std::int64_t begin, std::int64_t end) {
    map(
        end - begin, y + begin, [](auto v) TAPECACHE_INLINE { return v; }, x + begin);
  });
}

template <class Low>
void low_unary(UnaryOp op, std::int64_t n, const Low* x, Low* y) {
  apply(op, 0, 0, n, x, y);
}

template <class Low, class Gradient>
void low_unary_backward(UnaryOp op, std::int64_t n, const Low* x, const Gradient* dy, Gradient* dx, Mode mode) {
  apply_backward(op, 0, 0, n, x, dy, dx, mode);
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

template <>
const UnaryKernels<float> Provided<UnaryKernels<float>>::kernels = kUnary<float>;
template <>
const UnaryKernels<double> Provided<UnaryKernels<double>>::kernels = kUnary<double>;
template <>
const UnaryKernels<BFloat16> Provided<UnaryKernels<BFloat16>>::kernels = kUnary<BFloat16>;
template <>
const UnaryKernels<Float16> Provided<UnaryKernels<Float16>>::kernels = kUnary<Float16>;

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT
