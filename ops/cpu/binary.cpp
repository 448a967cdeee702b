#include <algorithm>
#include <array>
#include <type_traits>
#include <vector>

#include "tapecache/ops/cpu/sums.h"

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
void with_operation(BinaryOp op, const F& f) {
  switch (op) {
    case BinaryOp::kAdd:
      return f([](auto a, auto b) TAPECACHE_INLINE { return hn::Add(a, b); });
    case BinaryOp::kSubtract:
      return f([](auto a, auto b) TAPECACHE_INLINE { return hn::Sub(a, b); });
    case BinaryOp::kMultiply:
      return f([](auto a, auto b) TAPECACHE_INLINE { return hn::Mul(a, b); });
    case BinaryOp::kDivide:
      return f([](auto a, auto b) TAPECACHE_INLINE { return hn::Div(a, b); });
  }
}

/// Gradients of an operand: of (dy), or of (a, b, dy).
struct Same {
  template <class V>
  HWY_INLINE V operator()(V g) const {
    return g;
  }
};
struct Negated {
  template <class V>
  HWY_INLINE V operator()(V g) const {
    return hn::Neg(g);
  }
};
struct TimesLeft {
  template <class V>
  HWY_INLINE V operator()(V a, V, V g) const {
    return hn::Mul(g, a);
  }
};
struct TimesRight {
  template <class V>
  HWY_INLINE V operator()(V, V b, V g) const {
    return hn::Mul(g, b);
  }
};
struct OverRight {
  template <class V>
  HWY_INLINE V operator()(V, V b, V g) const {
    return hn::Div(g, b);
  }
};
struct OfDivisor {
  template <class V>
  HWY_INLINE V operator()(V a, V b, V g) const {
    return hn::Mul(hn::Neg(g), hn::Div(hn::Div(a, b), b));
  }
};

template <class F>
void with_derivative(BinaryOp op, int operand, const F& f) {
  switch (op) {
    case BinaryOp::kAdd:
      return f(Same{});
    case BinaryOp::kSubtract:
      return operand == 0 ? f(Same{}) : f(Negated{});
    case BinaryOp::kMultiply:
      return operand == 0 ? f(TimesRight{}) : f(TimesLeft{});
    case BinaryOp::kDivide:
      return operand == 0 ? f(OverRight{}) : f(OfDivisor{});
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

/// Not inlined: such operands are rare, and the code would be in every loop.
template <class T>
[[gnu::noinline]] void gather(const T* from, std::int64_t step, std::int64_t count, T* to) {
  for (std::int64_t k = 0; k < count; ++k) to[k] = from[k * step];
}

/// Elements i, i + 1, … of an operand, which are `step` apart; a step of 1 or 0 is a constant of the compiler's.
template <class T, class Step, class At>
HWY_INLINE Vec<T> load_steps(const T* from, Step step, std::int64_t i, std::int64_t count, At at) {
  if constexpr (std::is_same_v<Step, std::int64_t>) {
    T values[kVecLanes<T>] = {};
    gather(from + i * step, step, std::min(kVecLanes<T>, count - i), values);
    return load(values);
  } else if constexpr (Step::value == 0) {
    return set(*from);
  } else {
    return at.load(from + i);
  }
}

template <class T>
void binary(BinaryOp op, const Broadcast& layout, const T* a, const T* b, T* y) {
  const Rows rows(layout);
  with_operation(op, [&](auto operation) {
    rows.for_each_piece([&](std::int64_t row, std::int64_t begin, std::int64_t end) {
      const Offsets at_row = rows.at(row);
      with_steps(rows.step_a, rows.step_b, [&](auto step_a, auto step_b) {
        const T *from_a = a + at_row.a + begin * step_a, *from_b = b + at_row.b + begin * step_b;
        T* to = y + row * rows.length + begin;
        const std::int64_t count = end - begin;
        for_each_vec<T>(count, [&](std::int64_t i, auto at) TAPECACHE_INLINE {
          at.store(operation(load_steps(from_a, step_a, i, count, at), load_steps(from_b, step_b, i, count, at)),
                   to + i);
        });
      });
    });
  });
}

template <class T>
void binary_backward(BinaryOp op, int operand, const Broadcast& layout, const T* a, const T* b, const T* dy, T* dx,
                     Mode mode) {
  const Rows rows(layout);
  const auto& strides = operand == 0 ? rows.layout.a : rows.layout.b;
  const std::int64_t step = operand == 0 ? rows.step_a : rows.step_b;
  // Whether any of the outer axes is repeated; whether all are after some that are not, and how many rows those make.
  bool outer_repeated = false, inner_all_repeated = true;
  std::int64_t groups = 1;
  for (std::size_t i = 0; i + 1 < static_cast<std::size_t>(rows.layout.rank); ++i) {
    inner_all_repeated = inner_all_repeated && (strides[i] == 0 || !outer_repeated);
    outer_repeated = outer_repeated || strides[i] == 0;
    if (!outer_repeated) groups *= rows.layout.sizes[i];
  }
  with_derivative(op, operand, [&](auto derivative) {
    /// Calls `body` with the terms as a function of the row, where its operands begin, the place in it and how to read
    /// there; nothing is read at `count` and beyond.
    const auto with_terms = [&](std::int64_t count, const auto& body) {
      if constexpr (std::is_invocable_v<decltype(derivative), Vec<T>>) {
        body([=, &rows](std::int64_t row, const Offsets&, std::int64_t i, auto at)
                 TAPECACHE_INLINE { return derivative(at.load(dy + row * rows.length + i)); });
      } else {
        with_steps(rows.step_a, rows.step_b, [&](auto step_a, auto step_b) {
          body([=, &rows](std::int64_t row, const Offsets& from, std::int64_t i, auto at) TAPECACHE_INLINE {
            return derivative(load_steps(a + from.a, step_a, i, count, at),
                              load_steps(b + from.b, step_b, i, count, at), at.load(dy + row * rows.length + i));
          });
        });
      }
    };
    const auto sum_terms = [&](std::int64_t row, const Offsets& at_row, std::int64_t begin, std::int64_t end) {
      Sums<T, 1> sums;
      with_terms(end, [&](auto term) {
        sums.run(end - begin, [&](auto& state, std::int64_t i, auto at)
                                  TAPECACHE_INLINE { state[0] = hn::Add(state[0], term(row, at_row, begin + i, at)); });
      });
      return sums.total();
    };
    const auto sum_row = [&](std::int64_t row, const Offsets& at_row) {
      double total = 0;
      for (std::int64_t begin = 0; begin < rows.length; begin += kBlock) {
        total += sum_terms(row, at_row, begin, std::min(rows.length, begin + kBlock));
      }
      return total;
    };
    const auto place = [&](const Offsets& at) { return dx + (operand == 0 ? at.a : at.b); };

    if (!outer_repeated && step != 0) {  // nothing repeated: one term each
      rows.for_each_piece([&](std::int64_t row, std::int64_t begin, std::int64_t end) {
        const Offsets at_row = rows.at(row);
        with_terms(end, [&, to = place(at_row)](auto term) {
          for_each_vec<T>(end - begin, [&](std::int64_t from, auto at) TAPECACHE_INLINE {
            const std::int64_t i = begin + from;
            const auto terms = term(row, at_row, i, at);
            if (step == 1) {
              at.store(mode == Mode::kWrite ? terms : hn::Add(at.load(to + i), terms), to + i);
              return;
            }
            T values[kVecLanes<T>];
            store<T>(terms, values);
            for (std::int64_t k = 0; k < std::min(kVecLanes<T>, end - i); ++k) put(to[(i + k) * step], values[k], mode);
          });
        });
      });
    } else if (rows.rows == 1) {  // one element repeated along the only axis
      std::vector<double> partial(static_cast<std::size_t>((rows.length + kBlock - 1) / kBlock));
      parallel_for(rows.length, kBlock, [&](std::int64_t begin, std::int64_t end) {
        partial[static_cast<std::size_t>(begin / kBlock)] = sum_terms(0, {}, begin, end);
      });
      double total = 0;
      for (const double sum : partial) total += sum;
      put(dx[0], static_cast<T>(total), mode);
    } else if (!outer_repeated) {  // one element a row
      parallel_for(rows.rows, block_for(rows.length, kBlock), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; ++row) {
          const Offsets at_row = rows.at(row);
          put(*place(at_row), static_cast<T>(sum_row(row, at_row)), mode);
        }
      });
    } else if (inner_all_repeated && step != 0 && rows.rows > 0) {
      // One row for many, as a bias: sums of row blocks, then of those.
      const std::int64_t many = rows.rows / groups;
      const std::int64_t down = (many + kRowBlock - 1) / kRowBlock;
      const std::int64_t across = (rows.length + kColumnBlock - 1) / kColumnBlock;
      const std::int64_t size = column_sums_size<T>(rows.length);
      std::vector<double> partial(static_cast<std::size_t>(groups * down * size));
      const std::int64_t cost = std::min(many, kRowBlock) * std::min(rows.length, kColumnBlock);
      parallel_for(groups * down * across, block_for(cost, kBlock), [&](std::int64_t first, std::int64_t last) {
        for (std::int64_t block = first; block < last; ++block) {
          const std::int64_t group = block / across / down;
          const std::int64_t top = group * many + block / across % down * kRowBlock,
                             begin = block % across * kColumnBlock;
          const std::int64_t end = std::min(rows.length, begin + kColumnBlock);
          double* sums = partial.data() + block / across * size + begin;
          with_terms(end, [&](auto term) {
            const std::int64_t bottom = std::min((group + 1) * many, top + kRowBlock);
            Offsets from[kRowBlock];
            for (std::int64_t row = top; row < bottom; ++row) from[row - top] = rows.at(row);
            add_rows<T, 1>(top, bottom, end - begin, {sums},
                           [&](std::int64_t row, std::int64_t j, auto at)
                               TAPECACHE_INLINE { return std::array{term(row, from[row - top], begin + j, at)}; });
          });
        }
      });
      for (std::int64_t group = 0; group < groups; ++group) {
        T* const to = place(rows.at(group * many));
        for (std::int64_t i = 0; i < rows.length; ++i) {
          double total = 0;
          for (std::int64_t block = group * down; block < (group + 1) * down; ++block) {
            total += partial[static_cast<std::size_t>(block * size + i)];
          }
          put(to[i * step], static_cast<T>(total), mode);
        }
      }
    } else {  // any other pattern, in the order of the output
      std::int64_t size = 1;
      for (std::size_t i = 0; i < static_cast<std::size_t>(rows.layout.rank); ++i) {
        if (strides[i] != 0) size *= rows.layout.sizes[i];
      }
      std::vector<double> sums(static_cast<std::size_t>(size));
      for (std::int64_t row = 0; row < rows.rows; ++row) {
        const Offsets at_row = rows.at(row);
        double* sum = sums.data() + (place(at_row) - dx);
        if (step == 0) {
          *sum += sum_row(row, at_row);
          continue;
        }
        with_terms(rows.length, [&](auto term) {
          for_each_vec<T>(rows.length, [&](std::int64_t i, auto at) TAPECACHE_INLINE {
            T values[kVecLanes<T>];
            store<T>(term(row, at_row, i, at), values);
            for (std::int64_t k = 0; k < std::min(kVecLanes<T>, rows.length - i); ++k) {
              sum[(i + k) * step] += static_cast<double>(values[k]);
            }
          });
        });
      }
      for (std::int64_t i = 0; i < size; ++i) put(dx[i], static_cast<T>(sums[static_cast<std::size_t>(i)]), mode);
    }
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

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT
