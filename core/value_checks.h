#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "tapecache/core/tensor.h"

#pragma GCC visibility push(hidden)

/// Checks of the values in tensors. On the CPU they throw at once. On a CUDA device they are queued with the rest of
/// its work, so that the host need not wait: the device remembers the first that fails, and the next call that waits
/// for the device (`Device::synchronize`, `item`, a copy to the host) throws its error and forgets it. Until then,
/// optimiser steps on the device change nothing.
namespace tapecache {

/// The message of a failed check. In `text`, {position} and {value} stand for the index of the element and its value,
/// and {row} and {column} for its index in rows of `row_length` elements.
struct CheckText {
  std::string text = {};
  std::int64_t row_length = 1;
};

/// Returns the indices, i32 or i64, as i64 on their device. Throws ValueError for the first outside [0, limit); on a
/// CUDA device its place in the result holds 0, so that no kernel reads out of bounds. `text` is asked for the message
/// only where it is needed.
Tensor checked_indices(const Tensor& indices, std::int64_t limit, const std::function<CheckText()>& text);

/// Throws ValueError for the first row of bool [rows, columns] that holds no true; {position} is the row.
void require_true_in_each_row(const Tensor& flags, const CheckText& text);

/// The index of the first NaN or Inf of a floating tensor; -1 if there is none, and for other types. Waits for the
/// tensor's device.
std::int64_t first_non_finite(const Tensor& tensor);

namespace detail {

/// The number by which backends know a text.
std::int64_t number_of(const CheckText& text);
/// Throws what the check of that number says.
[[noreturn]] void throw_failed_check(std::int64_t number, std::int64_t position, std::int64_t value);
[[noreturn]] void fail(const CheckText& text, std::int64_t position, std::int64_t value);

}  // namespace detail

}  // namespace tapecache

#pragma GCC visibility pop
