#pragma once

#include <cstdint>
#include <string>

#include "tapecache/core/tensor.h"

#pragma GCC visibility push(hidden)

/// Checks of what tensors hold. On the CPU they throw at once. On a CUDA device they are queued with the rest of its
/// work, so that the host need not wait: the first that fails is remembered, and the next call that waits for the
/// device (`synchronize`, `item`, a copy to the host) throws what the check would have thrown, and forgets it. Until
/// then the device's optimiser steps change nothing.
namespace tapecache {

/// What a failed check says: `text`, in which {position} and {value} stand for the place of the element and what is
/// there, or {row} and {column} for its place among rows of `row_length`.
struct CheckText {
  std::string text = {};
  std::int64_t row_length = 1;
};

/// The indices, i32 or i64, as i64 on their device. ValueError for the first outside [0, limit), which on a device is
/// taken for 0, so that no kernel reads out of bounds. `text` gives the CheckText.
template <class Text>
Tensor checked_indices(const Tensor& indices, std::int64_t limit, const Text& text);

/// ValueError for the first row of bool [rows, columns] that holds no true; {position} is the row.
void require_true_in_each_row(const Tensor& flags, const CheckText& text);

namespace detail {

/// What backends know a text by.
std::int64_t number_of(const CheckText& text);
/// Throws what the check of that number says.
[[noreturn]] void throw_failed_check(std::int64_t number, std::int64_t position, std::int64_t value);

[[noreturn]] void fail(const CheckText& text, std::int64_t position, std::int64_t value);
Tensor indices_checked_on_device(const Tensor& indices, std::int64_t limit, const CheckText& text);
/// Of i64 on the host; -1 where there is none.
std::int64_t first_outside(const Tensor& indices, std::int64_t limit);

}  // namespace detail

template <class Text>
Tensor checked_indices(const Tensor& indices, std::int64_t limit, const Text& text) {
  if (!indices.device().is_cpu() && limit > 0) return detail::indices_checked_on_device(indices, limit, text());
  Tensor wide = indices.to(DType::kInt64);
  const Tensor host = wide.to(Device::cpu());
  const std::int64_t at = detail::first_outside(host, limit);
  if (at >= 0) detail::fail(text(), at, host.data<std::int64_t>()[at]);
  return wide;
}

}  // namespace tapecache

#pragma GCC visibility pop
