#include <cmath>

#include "tapecache/ops/cpu/cpu_kernels.h"
#include "tapecache/ops/cpu/vector_math.h"

namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT {

namespace {

constexpr std::int64_t kBlock = 8192;
constexpr double kInverseSqrt2 = 0.70710678118654752440;
constexpr double kInverseSqrt2Pi = 0.39894228040143267794;
constexpr double kTwoOverSqrtPi = 1.12837916709551257390;
constexpr double kSqrt2OverPi = 0.79788456080286535588;
constexpr double kGeluCubic = 0.044715;
constexpr double kQuickGelu = 1.702;

/// x, or 0 where that is so far off that what it is multiplied by is 0, which infinity times would not be.
template <class T>
[[gnu::always_inline]] inline T near(T x) {
  return std::fabs(x) < T{1000} ? x : T{0};
}

/// Calls `f` with the function value and the derivative as lambdas of (x or saved); one place for each formula. None
/// has the form a b + c d: which product goes into a fused multiply-add would then differ between a vector loop and
/// its tail, and an element's bits with its position.
template <class T, class F>
void with_function(UnaryOp op, T a, T b, F&& f) {
  switch (op) {
    case UnaryOp::kScale: return f([=](T x) { return a * x; }, [=](T) { return a; });
    case UnaryOp::kExp: return f([](T x) { return exponential(x); }, [](T y) { return y; });
    case UnaryOp::kLog: return f([](T x) { return logarithm(x); }, [](T x) { return T{1} / x; });
    case UnaryOp::kSqrt: return f([](T x) { return std::sqrt(x); }, [](T y) { return T(0.5) / y; });
    case UnaryOp::kRsqrt: return f([](T x) { return T{1} / std::sqrt(x); }, [](T y) { return T(-0.5) * y * y * y; });
    case UnaryOp::kPow:
      return f([=](T x) { return std::pow(x, a); }, [=](T x) { return a == 0 ? T{0} : a * std::pow(x, a - 1); });
    case UnaryOp::kTanh: return f([](T x) { return hyperbolic_tangent(x); }, [](T y) { return T{1} - y * y; });
    case UnaryOp::kErf:
      return f([](T x) { return error_function(x); }, [](T x) { return T(kTwoOverSqrtPi) * exponential(-x * x); });
    case UnaryOp::kSigmoid: return f([](T x) { return logistic(x); }, [](T y) { return y * (T{1} - y); });
    case UnaryOp::kRelu: return f([](T x) { return x < T{0} ? T{0} : x; }, [](T x) { return x > T{0} ? T{1} : T{0}; });
    case UnaryOp::kGelu:
      return f([](T x) { return T(0.5) * x * (T{1} + error_function(x * T(kInverseSqrt2))); },
               [](T x) {  // Φ(x) + x φ(x)
                 const T density = T(kInverseSqrt2Pi) * exponential(T(-0.5) * x * x);
                 return T(0.5) + T(0.5) * error_function(x * T(kInverseSqrt2)) + x * density;
               });
    case UnaryOp::kGeluTanh:
      return f(
          [](T x) {
            return T(0.5) * x * (T{1} + hyperbolic_tangent(T(kSqrt2OverPi) * (x + T(kGeluCubic) * x * x * x)));
          },
          [](T x) {
            const T t = hyperbolic_tangent(T(kSqrt2OverPi) * (x + T(kGeluCubic) * x * x * x)), z = near(x);
            const T inner = T(kSqrt2OverPi) * (T{1} + T(3 * kGeluCubic) * z * z);
            return T(0.5) + T(0.5) * t + T(0.5) * z * (T{1} - t * t) * inner;
          });
    case UnaryOp::kQuickGelu:
      return f([](T x) { return x * logistic(T(kQuickGelu) * x); },
               [](T x) {  // σ + 1.702 x σ (1 - σ)
                 const T s = logistic(T(kQuickGelu) * x);
                 return s + T(kQuickGelu) * near(x) * s * (T{1} - s);
               });
    case UnaryOp::kSilu:
      return f([](T x) { return x * logistic(x); },
               [](T x) {  // σ + x σ (1 - σ)
                 const T s = logistic(x);
                 return s + x * s * (T{1} - s);
               });
    case UnaryOp::kSoftplus:
      return f([](T x) { return (x < T{0} ? T{0} : x) + log1p_exponential(-std::fabs(x)); },
               [](T x) { return logistic(x); });
    case UnaryOp::kClamp:
      return f([=](T x) { return x < a ? a : (x > b ? b : x); },
               [=](T x) { return x >= a && x <= b ? T{1} : T{0}; });
  }
}

}  // namespace

template <class T>
void unary(UnaryOp op, double a, double b, std::int64_t n, const T* x, T* y) {
  with_function<T>(op, static_cast<T>(a), static_cast<T>(b), [=](auto value, auto) {
    parallel_for(n, kBlock, [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) y[i] = value(x[i]);
    });
  });
}

template <class T>
void unary_backward(UnaryOp op, double a, double b, std::int64_t n, const T* saved, const T* dy, T* dx, Mode mode) {
  // A scale has nothing saved; any readable array will do for its constant derivative.
  const T* from = saved ? saved : dy;
  with_function<T>(op, static_cast<T>(a), static_cast<T>(b), [=](auto, auto derivative) {
    parallel_for(n, kBlock, [=](std::int64_t begin, std::int64_t end) {
      if (mode == Mode::kWrite) {
        for (std::int64_t i = begin; i < end; ++i) dx[i] = dy[i] * derivative(from[i]);
      } else {
        for (std::int64_t i = begin; i < end; ++i) dx[i] += dy[i] * derivative(from[i]);
      }
    });
  });
}

template <class Low>
void low_round(std::int64_t n, const float* x, Low* y) {
  parallel_for(n, kBlock, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) y[i] = Low(x[i]);
  });
}

template <class Low>
void low_unary(UnaryOp op, std::int64_t n, const Low* x, Low* y) {
  with_function<float>(op, 0, 0, [=](auto value, auto) {
    parallel_for(n, kBlock, [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) y[i] = Low(value(static_cast<float>(x[i])));
    });
  });
}

template <class Low, class Gradient>
void low_unary_backward(UnaryOp op, std::int64_t n, const Low* x, const Gradient* dy, Gradient* dx, Mode mode) {
  with_function<float>(op, 0, 0, [=](auto, auto derivative) {
    parallel_for(n, kBlock, [=](std::int64_t begin, std::int64_t end) {
      if (mode == Mode::kWrite) {
        for (std::int64_t i = begin; i < end; ++i) {
          dx[i] = Gradient(static_cast<float>(dy[i]) * derivative(static_cast<float>(x[i])));
        }
      } else {
        for (std::int64_t i = begin; i < end; ++i) {
          dx[i] = Gradient(static_cast<float>(dx[i]) + static_cast<float>(dy[i]) * derivative(static_cast<float>(x[i])));
        }
      }
    });
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

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT
