#include <vector>

#include "tapecache/ops/cpu/cpu_kernels.h"

namespace tapecache::kernels::cpu {

namespace {

constexpr std::int64_t kBlock = 8192;
constexpr std::int64_t kRowBlock = 128;

/// Merges adjacent axes that both operands walk alike, so that most layouts come down to one or two axes.
Broadcast collapse(const Broadcast& layout) {
  Broadcast merged;
  for (std::size_t i = 0; i < static_cast<std::size_t>(layout.rank); ++i) {
    if (layout.sizes[i] == 1) continue;
    const auto last = static_cast<std::size_t>(merged.rank) - 1;
    if (merged.rank > 0 && merged.a[last] == layout.a[i] * layout.sizes[i] &&
        merged.b[last] == layout.b[i] * layout.sizes[i]) {
      merged.sizes[last] *= layout.sizes[i];
      merged.a[last] = layout.a[i];
      merged.b[last] = layout.b[i];
      continue;
    }
    const auto next = static_cast<std::size_t>(merged.rank++);
    merged.sizes[next] = layout.sizes[i];
    merged.a[next] = layout.a[i];
    merged.b[next] = layout.b[i];
  }
  if (merged.rank == 0) {
    merged.rank = 1;
    merged.sizes[0] = 1;
  }
  return merged;
}

struct Offsets {
  std::int64_t a = 0, b = 0;
};

/// The layout as rows of its last axis.
struct Rows {
  Broadcast layout;
  std::int64_t rows = 1, length, step_a, step_b;

  explicit Rows(const Broadcast& given) : layout(collapse(given)) {
    const auto last = static_cast<std::size_t>(layout.rank) - 1;
    for (std::size_t i = 0; i < last; ++i) rows *= layout.sizes[i];
    length = layout.sizes[last];
    step_a = layout.a[last];
    step_b = layout.b[last];
  }

  Offsets at(std::int64_t row) const {
    Offsets offsets;
    for (std::int64_t i = layout.rank - 2; i >= 0; --i) {
      const auto axis = static_cast<std::size_t>(i);
      const std::int64_t position = row % layout.sizes[axis];
      row /= layout.sizes[axis];
      offsets.a += position * layout.a[axis];
      offsets.b += position * layout.b[axis];
    }
    return offsets;
  }

  /// Calls body(row, first, last) over pieces of rows, in parallel.
  template <class Body>
  void for_each_piece(const Body& body) const {
    if (rows == 1) {
      parallel_for(length, kBlock, [&](std::int64_t begin, std::int64_t end) { body(0, begin, end); });
      return;
    }
    parallel_for(rows, block_for(length, kBlock), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) body(row, 0, length);
    });
  }
};

template <class F>
void with_operation(BinaryOp op, F&& f) {
  switch (op) {
    case BinaryOp::kAdd: return f([](auto a, auto b) { return a + b; });
    case BinaryOp::kSubtract: return f([](auto a, auto b) { return a - b; });
    case BinaryOp::kMultiply: return f([](auto a, auto b) { return a * b; });
    case BinaryOp::kDivide: return f([](auto a, auto b) { return a / b; });
  }
}

/// Calls `f` with the gradient of an operand as a function of (a, b, dy).
template <class F>
void with_derivative(BinaryOp op, int operand, F&& f) {
  switch (op) {
    case BinaryOp::kAdd: return f([](auto, auto, auto g) { return g; });
    case BinaryOp::kSubtract:
      if (operand == 0) return f([](auto, auto, auto g) { return g; });
      return f([](auto, auto, auto g) { return -g; });
    case BinaryOp::kMultiply:
      if (operand == 0) return f([](auto, auto b, auto g) { return g * b; });
      return f([](auto a, auto, auto g) { return g * a; });
    case BinaryOp::kDivide:
      if (operand == 0) return f([](auto, auto b, auto g) { return g / b; });
      return f([](auto a, auto b, auto g) { return -g * a / (b * b); });
  }
}

/// Runs `body(step_a, step_b)` with the steps as compile-time constants where they are 0 or 1.
template <class Body>
void with_steps(std::int64_t a, std::int64_t b, const Body& body) {
  using One = std::integral_constant<std::int64_t, 1>;
  using Zero = std::integral_constant<std::int64_t, 0>;
  if (a == 1 && b == 1) body(One{}, One{});
  else if (a == 1 && b == 0) body(One{}, Zero{});
  else if (a == 0 && b == 1) body(Zero{}, One{});
  else body(a, b);
}

/// Sum of term(i) over [0, n), by fixed blocks.
template <class T, class Term>
T blocked_sum(std::int64_t n, const Term& term) {
  const std::int64_t blocks = (n + kBlock - 1) / kBlock;
  std::vector<T> partial(static_cast<std::size_t>(blocks), T{0});
  parallel_for(n, kBlock, [&](std::int64_t begin, std::int64_t end) {
    T sum{0};
#pragma omp simd reduction(+ : sum)
    for (std::int64_t i = begin; i < end; ++i) sum += term(i);
    partial[static_cast<std::size_t>(begin / kBlock)] = sum;
  });
  T total{0};
  for (T p : partial) total += p;
  return total;
}

}  // namespace

template <class T>
void binary(BinaryOp op, const Broadcast& layout, const T* a, const T* b, T* y) {
  const Rows rows(layout);
  with_operation(op, [&](auto operation) {
    rows.for_each_piece([&](std::int64_t row, std::int64_t begin, std::int64_t end) {
      const Offsets at = rows.at(row);
      with_steps(rows.step_a, rows.step_b, [&](auto step_a, auto step_b) {
        for (std::int64_t i = begin; i < end; ++i) {
          y[row * rows.length + i] = operation(a[at.a + i * step_a], b[at.b + i * step_b]);
        }
      });
    });
  });
}

template <class T>
void binary_backward(BinaryOp op, int operand, const Broadcast& layout, const T* a, const T* b, const T* dy, T* dx,
                     Mode mode) {
  const Rows rows(layout);
  // Sums need no values; reading the gradient instead of a null pointer keeps the loops free of a test.
  if (!a) a = dy;
  if (!b) b = dy;
  const bool needs_values = op == BinaryOp::kMultiply || op == BinaryOp::kDivide;
  const auto& strides = operand == 0 ? rows.layout.a : rows.layout.b;
  const std::int64_t step = operand == 0 ? rows.step_a : rows.step_b;
  bool outer_repeated = false, outer_all_repeated = true;
  for (std::size_t i = 0; i + 1 < static_cast<std::size_t>(rows.layout.rank); ++i) {
    outer_repeated = outer_repeated || strides[i] == 0;
    outer_all_repeated = outer_all_repeated && strides[i] == 0;
  }
  with_derivative(op, operand, [&](auto derivative) {
    // By value, so that stores to dx cannot seem to change what the loops run on.
    const auto term = [=, length = rows.length, step_a = rows.step_a, step_b = rows.step_b](
                          std::int64_t row, const Offsets& at, std::int64_t i) {
      const T g = dy[row * length + i];
      if (!needs_values) return derivative(g, g, g);
      return derivative(a[at.a + i * step_a], b[at.b + i * step_b], g);
    };
    const auto place = [&](const Offsets& at) { return operand == 0 ? at.a : at.b; };

    if (!outer_repeated && step != 0) {  // nothing repeated: one term each
      rows.for_each_piece([&](std::int64_t row, std::int64_t begin, std::int64_t end) {
        const Offsets at = rows.at(row);
        T* to = dx + place(at);
        if (step == 1 && mode == Mode::kWrite) {
          for (std::int64_t i = begin; i < end; ++i) to[i] = term(row, at, i);
        } else {
          for (std::int64_t i = begin; i < end; ++i) put(to[i * step], term(row, at, i), mode);
        }
      });
    } else if (rows.rows == 1) {  // one element repeated along the only axis
      put(dx[0], blocked_sum<T>(rows.length, [&](std::int64_t i) { return term(0, {}, i); }), mode);
    } else if (!outer_repeated) {  // one element a row
      parallel_for(rows.rows, block_for(rows.length, kBlock), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; ++row) {
          const Offsets at = rows.at(row);
          T sum{0};
#pragma omp simd reduction(+ : sum)
          for (std::int64_t i = 0; i < rows.length; ++i) sum += term(row, at, i);
          put(dx[place(at)], sum, mode);
        }
      });
    } else if (outer_all_repeated && step != 0) {  // one row for all, as a bias: sums of row blocks, then of those
      const std::int64_t blocks = (rows.rows + kRowBlock - 1) / kRowBlock;
      std::vector<T> partial(static_cast<std::size_t>(blocks * rows.length), T{0});
      parallel_for(rows.rows, kRowBlock, [&](std::int64_t begin, std::int64_t end) {
        T* sum = partial.data() + begin / kRowBlock * rows.length;
        for (std::int64_t row = begin; row < end; ++row) {
          const Offsets at = rows.at(row);
          for (std::int64_t i = 0; i < rows.length; ++i) sum[i] += term(row, at, i);
        }
      });
      for (std::int64_t i = 0; i < rows.length; ++i) {
        T total{0};
        for (std::int64_t block = 0; block < blocks; ++block) {
          total += partial[static_cast<std::size_t>(block * rows.length + i)];
        }
        put(dx[i * step], total, mode);
      }
    } else {  // any other pattern, in the order of the output
      std::int64_t size = 1;
      for (std::size_t i = 0; i < static_cast<std::size_t>(rows.layout.rank); ++i) {
        if (strides[i] != 0) size *= rows.layout.sizes[i];
      }
      std::vector<T> sum(static_cast<std::size_t>(size), T{0});
      for (std::int64_t row = 0; row < rows.rows; ++row) {
        const Offsets at = rows.at(row);
        for (std::int64_t i = 0; i < rows.length; ++i) {
          sum[static_cast<std::size_t>(place(at) + i * step)] += term(row, at, i);
        }
      }
      for (std::int64_t i = 0; i < size; ++i) put(dx[i], sum[static_cast<std::size_t>(i)], mode);
    }
  });
}

template void binary(BinaryOp, const Broadcast&, const float*, const float*, float*);
template void binary(BinaryOp, const Broadcast&, const double*, const double*, double*);
template void binary_backward(BinaryOp, int, const Broadcast&, const float*, const float*, const float*, float*, Mode);
template void binary_backward(BinaryOp, int, const Broadcast&, const double*, const double*, const double*, double*,
                              Mode);

}  // namespace tapecache::kernels::cpu
