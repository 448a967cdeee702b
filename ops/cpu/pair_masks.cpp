#include "tapecache/ops/cpu/cpu_kernels.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <string_view>
#include <vector>

namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT {

namespace {

/// Rows of this many columns that one block takes.
std::int64_t rows_of_block(std::int64_t cols) {
  constexpr std::int64_t kElements = 1 << 15;
  return std::max<std::int64_t>(1, kElements / std::max<std::int64_t>(1, cols));
}

template <class T>
void positive_pairs(std::int64_t n, const std::int64_t* labels, T* pairs, bool* any) {
  std::vector<std::int64_t> others(static_cast<std::size_t>(n));
  parallel_for(n, rows_of_block(n), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      std::int64_t count = -1;  // a row equals itself
      for (std::int64_t j = 0; j < n; ++j) count += labels[j] == labels[i];
      others[static_cast<std::size_t>(i)] = count;
    }
  });
  const auto rows = std::count_if(others.begin(), others.end(), [](std::int64_t count) { return count > 0; });
  *any = rows > 0;
  parallel_for(n, rows_of_block(n), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t count = others[static_cast<std::size_t>(i)];
      const double share = count > 0 ? 1 / static_cast<double>(rows) : 0.0;
      const T weight = count > 0 ? static_cast<T>(share / static_cast<double>(count)) : T(0);
      for (std::int64_t j = 0; j < n; ++j) pairs[i * n + j] = labels[j] == labels[i] ? weight : T(0);
      pairs[i * n + i] = 0;
    }
  });
}

template <class T>
void false_negatives(const FalseNegatives& rule, const double* similarities, const double* positives, T excluded,
                     T* mask) {
  parallel_for(rule.rows, rows_of_block(rule.cols), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const double threshold = rule.threshold(positives[i * rule.positive_step]);
      const double* row = similarities + i * rule.cols;
      T* to = mask + i * rule.cols;
      for (std::int64_t j = 0; j < rule.cols; ++j) to[j] = row[j] > threshold ? excluded : T(0);
      if (rule.kept_step > 0) to[i * rule.kept_step] = 0;
      if (rule.self) to[i] = excluded;
    }
  });
}

template <class T>
void excluded_pairs(const EqualPairs& equal, std::int64_t queries, std::int64_t targets, T* mask) {
  parallel_for(queries, rows_of_block(targets), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      for (std::int64_t j = 0; j < targets; ++j) mask[i * targets + j] = static_cast<T>(equal.excludes(i, j));
    }
  });
}

template <class T>
void equal_rows(std::int64_t rows, std::int64_t tokens, std::int64_t width, const T* x, const bool* valid,
                std::int64_t* ids) {
  const std::size_t token_bytes = static_cast<std::size_t>(width) * sizeof(T);
  const auto token = [&](std::int64_t i, std::int64_t t) { return x + (i * tokens + t) * width; };
  const auto is_valid = [&](std::int64_t i, std::int64_t t) { return !valid || valid[i * tokens + t]; };
  const auto equal = [&](std::int64_t a, std::int64_t b) {
    for (std::int64_t t = 0; t < tokens; ++t) {
      if (is_valid(a, t) != is_valid(b, t)) return false;
      if (is_valid(a, t) && std::memcmp(token(a, t), token(b, t), token_bytes) != 0) return false;
    }
    return true;
  };
  std::vector<std::size_t> hashes(static_cast<std::size_t>(rows));
  parallel_for(rows, rows_of_block(tokens * width), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      std::size_t hash = 0;
      for (std::int64_t t = 0; t < tokens; ++t) {
        if (!is_valid(i, t)) continue;
        const std::string_view bytes(reinterpret_cast<const char*>(token(i, t)), token_bytes);
        hash = hash * 31 + std::hash<std::string_view>()(bytes);
      }
      hashes[static_cast<std::size_t>(i)] = hash;
    }
  });
  // The first of each kind, by its hash or in the next free place; -1 is free. A map of the standard library's would be
  // compiled for this variant, and linked into others.
  std::size_t places = 4;
  while (places < 2 * hashes.size()) places *= 2;
  std::vector<std::int64_t> firsts(places, -1);
  for (std::int64_t i = 0; i < rows; ++i) {
    const std::size_t hash = hashes[static_cast<std::size_t>(i)];
    std::size_t place = hash & (places - 1);
    const auto is_other = [&](std::int64_t first) {
      return first >= 0 && (hashes[static_cast<std::size_t>(first)] != hash || !equal(first, i));
    };
    while (is_other(firsts[place])) place = (place + 1) & (places - 1);
    if (firsts[place] < 0) firsts[place] = i;
    ids[i] = firsts[place];
  }
}

template <class T>
constexpr PairMaskKernels<T> kPairMask{
    .positive_pairs = positive_pairs<T>,
    .false_negatives = false_negatives<T>,
    .excluded_pairs = excluded_pairs<T>,
    .equal_rows = equal_rows<T>,
};

}  // namespace

template <>
const PairMaskKernels<float> Provided<PairMaskKernels<float>>::kernels = kPairMask<float>;
template <>
const PairMaskKernels<double> Provided<PairMaskKernels<double>>::kernels = kPairMask<double>;

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT
