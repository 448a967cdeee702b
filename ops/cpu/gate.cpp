#include "tapecache/ops/cpu/unary_functions.h"

namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT {

namespace {

/// Calls `f` with the function of an activation.
template <class F>
void with_activation(UnaryOp op, const F& f) {
  using namespace unary_functions;
  if (op == UnaryOp::kGelu) f(Gelu{});
  else if (op == UnaryOp::kGeluTanh) f(GeluTanh{});
  else if (op == UnaryOp::kQuickGelu) f(QuickGelu{});
  else if (op == UnaryOp::kSilu) f(Silu{});
  else f(Relu{});
}

template <class T>
void gate(UnaryOp op, std::int64_t rows, std::int64_t width, const T* x, T* y) {
  with_activation(op, [=](auto function) {
    parallel_for(rows, block_for(width), [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        const T* a = x + row * 2 * width;
        map(
            width, y + row * width, [=](auto v, auto w) TAPECACHE_INLINE { return hn::Mul(function.value(v), w); }, a,
            a + width);
      }
    });
  });
}

template <class T>
void gate_backward(UnaryOp op, std::int64_t rows, std::int64_t width, const T* x, const T* dy, T* dx, Mode mode) {
  with_activation(op, [=](auto function) {
    parallel_for(rows, block_for(2 * width), [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        const T *a = x + row * 2 * width, *g = dy + row * width;
        T* to = dx + row * 2 * width;
        map_to(
            mode, width, to,
            [=](auto v, auto w, auto gradient)
                TAPECACHE_INLINE { return unary_functions::chain(function, v, hn::Mul(gradient, w)); },
            a, a + width, g);
        map_to(
            mode, width, to + width,
            [=](auto v, auto gradient) TAPECACHE_INLINE { return hn::Mul(gradient, function.value(v)); }, a, g);
      }
    });
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

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT
