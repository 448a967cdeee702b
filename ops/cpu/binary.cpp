#include <vector>

#include "tapecache/ops/cpu/cpu_kernels.h"

namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT {

namespace {

constexpr std::int64_t kBlock = 8192;
constexpr std::int64_t kRowBlock = 128;
constexpr std::int64_t kColumnBlock = 2048;

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

template <class T, class Term>
T sum_terms(std::int64_t begin, std::int64_t end, const Term& term) {
  T sum{0};
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = begin; i < end; ++i) sum += term(i);
  return sum;
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
  const bool needs_values = op == BinaryOp::kMultiply || op == BinaryOp::kDivide;
  const auto& strides = operand == 0 ? rows.layout.a : rows.layout.b;
  const std::int64_t step = operand == 0 ? rows.step_a : rows.step_b;
  bool outer_repeated = false, outer_all_repeated = true;
  for (std::size_t i = 0; i + 1 < static_cast<std::size_t>(rows.layout.rank); ++i) {
    outer_repeated = outer_repeated || strides[i] == 0;
    outer_all_repeated = outer_all_repeated && strides[i] == 0;
  }
  with_derivative(op, operand, [&](auto derivative) {
    /// Calls `body` with a row's terms as a function of the position in the row.
    const auto with_terms = [&](std::int64_t row, const Offsets& at, const auto& body) {
      const T* g = dy + row * rows.length;
      if (!needs_values) return body([=](std::int64_t i) { return derivative(g[i], g[i], g[i]); });
      const T *row_a = a + at.a, *row_b = b + at.b;
      with_steps(rows.step_a, rows.step_b, [&](auto step_a, auto step_b) {
        body([=](std::int64_t i) { return derivative(row_a[i * step_a], row_b[i * step_b], g[i]); });
      });
    };
    const auto place = [&](const Offsets& at) { return dx + (operand == 0 ? at.a : at.b); };

    if (!outer_repeated && step != 0) {  // nothing repeated: one term each
      rows.for_each_piece([&](std::int64_t row, std::int64_t begin, std::int64_t end) {
        const Offsets at = rows.at(row);
        with_terms(row, at, [&, to = place(at)](auto term) {
          if (mode == Mode::kWrite && step == 1) {
            for (std::int64_t i = begin; i < end; ++i) to[i] = term(i);
          } else if (step == 1) {
            for (std::int64_t i = begin; i < end; ++i) to[i] += term(i);
          } else {
            for (std::int64_t i = begin; i < end; ++i) put(to[i * step], term(i), mode);
          }
        });
      });
    } else if (rows.rows == 1) {  // one element repeated along the only axis
      std::vector<T> partial(static_cast<std::size_t>((rows.length + kBlock - 1) / kBlock), T{0});
      parallel_for(rows.length, kBlock, [&](std::int64_t begin, std::int64_t end) {
        with_terms(0, {}, [&](auto term) {
          partial[static_cast<std::size_t>(begin / kBlock)] = sum_terms<T>(begin, end, term);
        });
      });
      T total{0};
      for (T sum : partial) total += sum;
      put(dx[0], total, mode);
    } else if (!outer_repeated) {  // one element a row
      parallel_for(rows.rows, block_for(rows.length, kBlock), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; ++row) {
          const Offsets at = rows.at(row);
          with_terms(row, at, [&](auto term) { put(*place(at), sum_terms<T>(0, rows.length, term), mode); });
        }
      });
    } else if (outer_all_repeated && step != 0) {  // one row for all, as a bias: sums of row blocks, then of those
      const std::int64_t down = (rows.rows + kRowBlock - 1) / kRowBlock;
      const std::int64_t across = (rows.length + kColumnBlock - 1) / kColumnBlock;
      std::vector<T> partial(static_cast<std::size_t>(down * rows.length), T{0});
      const std::int64_t cost = std::min(rows.rows, kRowBlock) * std::min(rows.length, kColumnBlock);
      parallel_for(down * across, block_for(cost, kBlock), [&](std::int64_t first, std::int64_t last) {
        for (std::int64_t block = first; block < last; ++block) {
          const std::int64_t top = block / across * kRowBlock, begin = block % across * kColumnBlock;
          const std::int64_t end = std::min(rows.length, begin + kColumnBlock);
          T* sum = partial.data() + block / across * rows.length;
          for (std::int64_t row = top; row < std::min(rows.rows, top + kRowBlock); ++row) {
            with_terms(row, rows.at(row), [&](auto term) {
              for (std::int64_t i = begin; i < end; ++i) sum[i] += term(i);
            });
          }
        }
      });
      parallel_for(rows.length, kColumnBlock, [&](std::int64_t begin, std::int64_t end) {
        T* total = partial.data();
        for (std::int64_t block = 1; block < down; ++block) {
          const T* sum = partial.data() + block * rows.length;
          for (std::int64_t i = begin; i < end; ++i) total[i] += sum[i];
        }
        for (std::int64_t i = begin; i < end; ++i) put(dx[i * step], down == 0 ? T{0} : total[i], mode);
      });
    } else {  // any other pattern, in the order of the output
      std::int64_t size = 1;
      for (std::size_t i = 0; i < static_cast<std::size_t>(rows.layout.rank); ++i) {
        if (strides[i] != 0) size *= rows.layout.sizes[i];
      }
      std::vector<T> sums(static_cast<std::size_t>(size), T{0});
      for (std::int64_t row = 0; row < rows.rows; ++row) {
        const Offsets at = rows.at(row);
        T* sum = sums.data() + (place(at) - dx);
        with_terms(row, at, [&](auto term) {
          if (step == 0) {
            *sum += sum_terms<T>(0, rows.length, term);
          } else {
            for (std::int64_t i = 0; i < rows.length; ++i) sum[i * step] += term(i);
          }
        });
      }
      for (std::int64_t i = 0; i < size; ++i) put(dx[i], sums[static_cast<std::size_t>(i)], mode);
    }
  });
}

template void binary(BinaryOp, const Broadcast&, const float*, const float*, float*);
template void binary(BinaryOp, const Broadcast&, const double*, const double*, double*);
template void binary_backward(BinaryOp, int, const Broadcast&, const float*, const float*, const float*, float*, Mode);
template void binary_backward(BinaryOp, int, const Broadcast&, const double*, const double*, const double*, double*,
                              Mode);

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT
