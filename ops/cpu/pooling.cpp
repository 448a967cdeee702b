#include <array>
#include <vector>

#include "tapecache/ops/cpu/sums.h"

namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT {

namespace {

constexpr std::int64_t kColumns = 64;  // whose maxima are held at a time

template <class Body>
void for_each_sample(std::int64_t batch, std::int64_t cost, const Body& body) {
  parallel_for(batch, block_for(cost), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t sample = begin; sample < end; ++sample) body(sample);
  });
}

std::int64_t count_valid(const bool* valid, std::int64_t tokens) {
  return valid ? std::count(valid, valid + tokens, true) : tokens;
}

/// Calls body(begin, end) for each run of valid tokens.
template <class Body>
void for_each_valid_run(const bool* valid, std::int64_t tokens, const Body& body) {
  for (std::int64_t begin = 0, end = 0; begin < tokens; begin = end) {
    for (; begin < tokens && valid && !valid[begin]; ++begin) {
    }
    for (end = begin; end < tokens && (!valid || valid[end]); ++end) {
    }
    if (begin < end) body(begin, end);
  }
}

template <class T>
void mean_pool(std::int64_t batch, std::int64_t tokens, std::int64_t width, const T* x, const bool* valid, T* y) {
  for_each_sample(batch, tokens * width, [=](std::int64_t sample) {
    const bool* mask = valid ? valid + sample * tokens : nullptr;
    std::vector<double> sums(static_cast<std::size_t>(column_sums_size<T>(width)));
    for_each_valid_run(mask, tokens, [&](std::int64_t begin, std::int64_t end) {
      add_rows<T, 1>(begin, end, width, {sums.data()},
                     [=](std::int64_t token, std::int64_t j, auto at)
                         TAPECACHE_INLINE { return std::array{at.load(x + (sample * tokens + token) * width + j)}; });
    });
    const double factor = 1 / static_cast<double>(std::max<std::int64_t>(1, count_valid(mask, tokens)));
    for (std::int64_t j = 0; j < width; ++j) {
      y[sample * width + j] = static_cast<T>(sums[static_cast<std::size_t>(j)] * factor);
    }
  });
}

template <class T>
void mean_pool_backward(std::int64_t batch, std::int64_t tokens, std::int64_t width, const bool* valid, const T* dy,
                        T* dx, Mode mode) {
  for_each_sample(batch, tokens * width, [=](std::int64_t sample) {
    const bool* mask = valid ? valid + sample * tokens : nullptr;
    const T factor = T{1} / static_cast<T>(std::max<std::int64_t>(1, count_valid(mask, tokens)));
    const T* from = dy + sample * width;
    for (std::int64_t token = 0; token < tokens; ++token) {
      const T weight = !mask || mask[token] ? factor : T{0};
      map_to(
          mode, width, dx + (sample * tokens + token) * width,
          [w = set(weight)](auto v) TAPECACHE_INLINE { return hn::Mul(w, v); }, from);
    }
  });
}

template <class T>
void max_pool(std::int64_t batch, std::int64_t tokens, std::int64_t width, const T* x, const bool* valid, T* y,
              std::int64_t* argmax) {
  for_each_sample(batch, tokens * width, [=](std::int64_t sample) {
    for (std::int64_t first = 0; first < width; first += kColumns) {
      const std::int64_t count = std::min(kColumns, width - first);
      T largest[kColumns] = {};
      std::int64_t best[kColumns];
      std::fill(best, best + kColumns, std::int64_t{-1});
      for (std::int64_t token = 0; token < tokens; ++token) {
        if (valid && !valid[sample * tokens + token]) continue;
        const T* from = x + (sample * tokens + token) * width + first;
        for (std::int64_t j = 0; j < count; ++j) {
          // Branch-free; a NaN counts as larger than any number.
          const T value = from[j], old = largest[j];
          const bool larger = (best[j] < 0) | (value > old) | ((value != value) & (old == old));
          largest[j] = larger ? value : old;
          best[j] = larger ? token : best[j];
        }
      }
      std::copy(largest, largest + count, y + sample * width + first);
      std::copy(best, best + count, argmax + sample * width + first);
    }
  });
}

template <class T>
void max_pool_backward(std::int64_t batch, std::int64_t tokens, std::int64_t width, const std::int64_t* argmax,
                       const T* dy, T* dx, Mode mode) {
  for_each_sample(batch, tokens * width, [=](std::int64_t sample) {
    T* to = dx + sample * tokens * width;
    if (mode == Mode::kWrite) std::fill(to, to + tokens * width, T{0});
    for (std::int64_t j = 0; j < width; ++j) {
      const std::int64_t token = argmax[sample * width + j];
      if (token >= 0) to[token * width + j] += dy[sample * width + j];
    }
  });
}

template <class T>
void last_token(std::int64_t batch, std::int64_t tokens, const bool* valid, std::int64_t* index) {
  for (std::int64_t i = 0; i < batch; ++i) {
    std::int64_t token = tokens - 1;
    while (token > 0 && !valid[i * tokens + token]) --token;
    index[i] = token;
  }
}

template <class T>
void first_token(std::int64_t batch, std::int64_t tokens, const bool* valid, const std::int64_t* ids, std::int64_t id,
                 std::int64_t* index) {
  for (std::int64_t i = 0; i < batch; ++i) {
    std::int64_t token = 0;
    const auto fits = [=](std::int64_t at) { return (!valid || valid[at]) && (!ids || ids[at] == id); };
    while (token < tokens && !fits(i * tokens + token)) ++token;
    index[i] = token < tokens ? token : -1;
  }
}

template <class T>
void token_positions(std::int64_t batch, std::int64_t tokens, std::int64_t first, const bool* valid,
                     std::int64_t* position) {
  for (std::int64_t i = 0; i < batch; ++i) {
    std::int64_t next = first;
    for (std::int64_t at = i * tokens; at < (i + 1) * tokens; ++at) position[at] = valid[at] ? next++ : first - 1;
  }
}

template <class T>
void select_token(std::int64_t batch, std::int64_t tokens, std::int64_t width, const std::int64_t* index, const T* x,
                  T* y) {
  for_each_sample(batch, width, [=](std::int64_t sample) {
    const T* from = x + (sample * tokens + index[sample]) * width;
    std::copy(from, from + width, y + sample * width);
  });
}

template <class T>
void select_token_backward(std::int64_t batch, std::int64_t tokens, std::int64_t width, const std::int64_t* index,
                           const T* dy, T* dx, Mode mode) {
  for_each_sample(batch, tokens * width, [=](std::int64_t sample) {
    if (mode == Mode::kWrite) std::fill(dx + sample * tokens * width, dx + (sample + 1) * tokens * width, T{0});
    T* to = dx + (sample * tokens + index[sample]) * width;
    for (std::int64_t j = 0; j < width; ++j) to[j] += dy[sample * width + j];
  });
}

template <class T>
constexpr PoolingKernels<T> kPooling{
    .mean_pool = mean_pool<T>,
    .mean_pool_backward = mean_pool_backward<T>,
    .max_pool = max_pool<T>,
    .max_pool_backward = max_pool_backward<T>,
    .last_token = last_token<T>,
    .first_token = first_token<T>,
    .token_positions = token_positions<T>,
    .select_token = select_token<T>,
    .select_token_backward = select_token_backward<T>,
};

}  // namespace

template <>
const PoolingKernels<float> Provided<PoolingKernels<float>>::kernels = kPooling<float>;
template <>
const PoolingKernels<double> Provided<PoolingKernels<double>>::kernels = kPooling<double>;

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT
