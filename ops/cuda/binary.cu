#include "tapecache/ops/cuda/cuda_kernels.h"
#include "tapecache/ops/cuda/sum_terms.cuh"

namespace tapecache::kernels::cuda {

namespace {

struct Offsets {
  std::int64_t out, a, b;
};

/// Some axes of the output, and the distances by which a step along them goes in the output and the operands.
struct Axes {
  int rank = 0;
  std::int64_t sizes[Shape::kMaxRank], out[Shape::kMaxRank], a[Shape::kMaxRank], b[Shape::kMaxRank];

  std::int64_t count() const {
    std::int64_t n = 1;
    for (int i = 0; i < rank; ++i) n *= sizes[i];
    return n;
  }

  /// Appends an axis, joined to the last one where a walk over both is one walk.
  void append(std::int64_t size, std::int64_t step_out, std::int64_t step_a, std::int64_t step_b) {
    if (size == 1) return;
    const int last = rank - 1;
    if (rank > 0 && out[last] == step_out * size && a[last] == step_a * size && b[last] == step_b * size) {
      sizes[last] *= size;
    } else {
      sizes[rank++] = size;
    }
    out[rank - 1] = step_out;
    a[rank - 1] = step_a;
    b[rank - 1] = step_b;
  }

  __device__ Offsets at(std::int64_t i) const {
    Offsets offsets{0, 0, 0};
    for (int axis = rank - 1; axis >= 0; --axis) {
      std::int64_t position = i;
      if (axis > 0) {
        i /= sizes[axis];
        position -= i * sizes[axis];
      }
      offsets.out += position * out[axis];
      offsets.a += position * a[axis];
      offsets.b += position * b[axis];
    }
    return offsets;
  }
};

/// The axes for which `wanted` holds, by their number.
template <class Wanted>
Axes axes_of(const Broadcast& layout, const Wanted& wanted) {
  std::int64_t steps[Shape::kMaxRank], step = 1;
  for (int i = layout.rank - 1; i >= 0; --i) {
    steps[i] = step;
    step *= layout.sizes[static_cast<std::size_t>(i)];
  }
  Axes axes;
  for (int i = 0; i < layout.rank; ++i) {
    const auto at = static_cast<std::size_t>(i);
    if (wanted(at)) axes.append(layout.sizes[at], steps[i], layout.a[at], layout.b[at]);
  }
  return axes;
}

template <BinaryOp kOp>
struct Operation {
  template <class T>
  __device__ static T value(T a, T b) {
    if constexpr (kOp == BinaryOp::kAdd) return a + b;
    else if constexpr (kOp == BinaryOp::kSubtract) return a - b;
    else if constexpr (kOp == BinaryOp::kMultiply) return a * b;
    else return a / b;
  }

  /// The gradient of operand 0 or 1 where the output's is g.
  template <int kOperand, class T>
  __device__ static T derivative(T a, T b, T g) {
    if constexpr (kOp == BinaryOp::kAdd) return g;
    else if constexpr (kOp == BinaryOp::kSubtract) return kOperand == 0 ? g : -g;
    else if constexpr (kOp == BinaryOp::kMultiply) return kOperand == 0 ? g * b : g * a;
    else return kOperand == 0 ? g / b : -g * (a / b / b);
  }
};

template <class F>
void with_operation(BinaryOp op, const F& f) {
  switch (op) {
    case BinaryOp::kAdd:
      return f(Operation<BinaryOp::kAdd>{});
    case BinaryOp::kSubtract:
      return f(Operation<BinaryOp::kSubtract>{});
    case BinaryOp::kMultiply:
      return f(Operation<BinaryOp::kMultiply>{});
    case BinaryOp::kDivide:
      return f(Operation<BinaryOp::kDivide>{});
  }
}

template <class T, class Op>
__global__ void binary_kernel(std::int64_t n, Axes axes, const T* a, const T* b, T* y) {
  for (std::int64_t i = thread_index(); i < n; i += thread_count()) {
    const Offsets at = axes.at(i);
    y[i] = Op::value(a[at.a], b[at.b]);
  }
}

/// Term k of element i of an operand's gradient. a and b are null where the derivative does not need them.
template <class T, class Op, int kOperand>
struct GradientTerm {
  Axes elements, terms;
  const T *a, *b, *dy;

  __device__ T operator()(std::int64_t i, std::int64_t k) const {
    const Offsets at = elements.at(i), to = terms.at(k);
    const T g = dy[at.out + to.out];
    if (!a) return Op::template derivative<kOperand>(g, g, g);
    return Op::template derivative<kOperand>(a[at.a + to.a], b[at.b + to.b], g);
  }
};

template <class T, class Term>
__global__ void binary_backward_kernel(std::int64_t n, Term term, T* dx, Mode mode) {
  for (std::int64_t i = thread_index(); i < n; i += thread_count()) put(dx[i], term(i, 0), mode);
}

template <class T, class Op, int kOperand>
void operand_gradient(const Broadcast& layout, const T* a, const T* b, const T* dy, T* dx, Mode mode) {
  const auto& strides = kOperand == 0 ? layout.a : layout.b;
  const Axes elements = axes_of(layout, [&](std::size_t i) { return strides[i] != 0; });
  const Axes terms = axes_of(layout, [&](std::size_t i) { return strides[i] == 0; });
  const std::int64_t count = elements.count(), length = terms.count();
  const GradientTerm<T, Op, kOperand> term{elements, terms, a, b, dy};
  if (terms.rank == 0) {
    launch(binary_backward_kernel<T, GradientTerm<T, Op, kOperand>>, grid_for(count), count, term, dx, mode);
    return;
  }
  const bool terms_are_innermost = elements.rank == 0 || terms.out[terms.rank - 1] < elements.out[elements.rank - 1];
  sum_terms(count, length, terms_are_innermost ? Adjacent::kTerms : Adjacent::kSums, term, T{1}, dx, mode);
}

template <class T>
void binary(BinaryOp op, const Broadcast& layout, const T* a, const T* b, T* y) {
  const Axes axes = axes_of(layout, [](std::size_t) { return true; });
  const std::int64_t n = axes.count();
  with_operation(op, [&]<class Op>(Op) { launch(binary_kernel<T, Op>, grid_for(n), n, axes, a, b, y); });
}

template <class T>
void binary_backward(BinaryOp op, int operand, const Broadcast& layout, const T* a, const T* b, const T* dy, T* dx,
                     Mode mode) {
  with_operation(op, [&]<class Op>(Op) {
    if (operand == 0) operand_gradient<T, Op, 0>(layout, a, b, dy, dx, mode);
    else operand_gradient<T, Op, 1>(layout, a, b, dy, dx, mode);
  });
}

template <class T>
constexpr BinaryKernels<T> kBinary{
    .binary = binary<T>,
    .binary_backward = binary_backward<T>,
};

}  // namespace

template <>
const BinaryKernels<float> Provided<BinaryKernels<float>>::kernels = kBinary<float>;
template <>
const BinaryKernels<double> Provided<BinaryKernels<double>>::kernels = kBinary<double>;

}  // namespace tapecache::kernels::cuda
