#include <cmath>
#include <vector>

#include "tapecache/ops/cpu/cpu_kernels.h"
#include "tapecache/ops/cpu/row_math.h"

namespace tapecache::kernels::cpu {

namespace {

constexpr std::int64_t kAxisBlock = 512;  // of a long sum: blocks are summed alone, then in order
constexpr std::int64_t kWork = 16384;

/// Sum over positions [begin, end) of the axis into `to` [inner].
template <class T>
void sum_block(const T* x, std::int64_t begin, std::int64_t end, std::int64_t inner, T* to) {
  if (inner == 1) {
    *to = row_sum(x + begin, end - begin);
    return;
  }
  std::fill(to, to + inner, T{0});
  for (std::int64_t k = begin; k < end; ++k) {
    for (std::int64_t j = 0; j < inner; ++j) to[j] += x[k * inner + j];
  }
}

template <class T>
void sum_axis(std::int64_t outer, std::int64_t axis, std::int64_t inner, T factor, const T* x, T* y, Mode mode) {
  const std::int64_t blocks = std::max<std::int64_t>(1, (axis + kAxisBlock - 1) / kAxisBlock);
  std::vector<T> partial(static_cast<std::size_t>(outer * blocks * inner));
  parallel_for(outer * blocks, block_for(std::min(axis, kAxisBlock) * inner, kWork),
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t i = begin; i < end; ++i) {
                   const std::int64_t first = i % blocks * kAxisBlock;
                   sum_block(x + i / blocks * axis * inner, first, std::min(axis, first + kAxisBlock), inner,
                             partial.data() + i * inner);
                 }
               });
  parallel_for(outer, block_for(blocks * inner, kWork), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      T* total = partial.data() + i * blocks * inner;
      for (std::int64_t block = 1; block < blocks; ++block) {
        for (std::int64_t j = 0; j < inner; ++j) total[j] += total[block * inner + j];
      }
      for (std::int64_t j = 0; j < inner; ++j) put(y[i * inner + j], total[j] * factor, mode);
    }
  });
}

/// Calls body(i, j) for every place of the result, in parallel.
template <class Body>
void for_each_result(std::int64_t outer, std::int64_t axis, std::int64_t inner, const Body& body) {
  parallel_for(outer * inner, block_for(axis, kWork), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t at = begin; at < end; ++at) body(at / inner, at % inner);
  });
}

/// A strided row, gathered where it is not contiguous.
template <class T>
const T* contiguous(const T* x, std::int64_t axis, std::int64_t stride, std::vector<T>& scratch) {
  if (stride == 1) return x;
  scratch.resize(static_cast<std::size_t>(axis));
  for (std::int64_t k = 0; k < axis; ++k) scratch[static_cast<std::size_t>(k)] = x[k * stride];
  return scratch.data();
}

/// Position of the first maximum; a NaN counts as larger than any number.
template <class T>
std::int64_t first_maximum(const T* x, std::int64_t axis, std::int64_t stride) {
  std::int64_t best = 0;
  for (std::int64_t k = 1; k < axis; ++k) {
    const T value = x[k * stride], largest = x[best * stride];
    if (value > largest || (std::isnan(value) && !std::isnan(largest))) best = k;
  }
  return best;
}

}  // namespace

template <class T>
void reduce(ReduceOp op, std::int64_t outer, std::int64_t axis, std::int64_t inner, const T* x, T* y, Mode mode) {
  switch (op) {
    case ReduceOp::kSum: return sum_axis(outer, axis, inner, T{1}, x, y, mode);
    case ReduceOp::kMean: return sum_axis(outer, axis, inner, T{1} / static_cast<T>(axis), x, y, mode);
    case ReduceOp::kMax:
      return for_each_result(outer, axis, inner, [=](std::int64_t i, std::int64_t j) {
        const T* row = x + i * axis * inner + j;
        put(y[i * inner + j], row[first_maximum(row, axis, inner) * inner], mode);
      });
    case ReduceOp::kLogSumExp:
      return for_each_result(outer, axis, inner, [=](std::int64_t i, std::int64_t j) {
        thread_local std::vector<T> scratch;
        put(y[i * inner + j], row_logsumexp(contiguous(x + i * axis * inner + j, axis, inner, scratch), axis), mode);
      });
  }
}

template <class T>
void reduce_backward(ReduceOp op, std::int64_t outer, std::int64_t axis, std::int64_t inner, const T* x, const T* y,
                     const T* dy, T* dx, Mode mode) {
  const T mean_factor = T{1} / static_cast<T>(axis);
  if (op == ReduceOp::kMax) {
    for_each_result(outer, axis, inner, [=](std::int64_t i, std::int64_t j) {
      const std::int64_t base = i * axis * inner + j, best = first_maximum(x + base, axis, inner);
      for (std::int64_t k = 0; k < axis; ++k) put(dx[base + k * inner], k == best ? dy[i * inner + j] : T{0}, mode);
    });
    return;
  }
  parallel_for(outer * axis, block_for(inner, kWork), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const std::int64_t from = row / axis * inner, to = row * inner;
      for (std::int64_t j = 0; j < inner; ++j) {
        T gradient = dy[from + j];
        if (op == ReduceOp::kMean) gradient *= mean_factor;
        if (op == ReduceOp::kLogSumExp) gradient *= exponential(x[to + j] - y[from + j]);
        put(dx[to + j], gradient, mode);
      }
    }
  });
}

template void reduce(ReduceOp, std::int64_t, std::int64_t, std::int64_t, const float*, float*, Mode);
template void reduce(ReduceOp, std::int64_t, std::int64_t, std::int64_t, const double*, double*, Mode);
template void reduce_backward(ReduceOp, std::int64_t, std::int64_t, std::int64_t, const float*, const float*,
                              const float*, float*, Mode);
template void reduce_backward(ReduceOp, std::int64_t, std::int64_t, std::int64_t, const double*, const double*,
                              const double*, double*, Mode);

}  // namespace tapecache::kernels::cpu
