#include "tapecache/core/value_checks.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "tapecache/core/device_backend.h"
#include "tapecache/core/error.h"

namespace tapecache {

namespace {

/// Every text that a device was given: as many as there are checks in a program, not in a run.
struct Texts {
  std::mutex mutex;
  std::map<std::pair<std::string, std::int64_t>, std::int64_t> numbers;
  std::vector<CheckText> all;
};

/// Never destroyed: a device may be waited for when static objects are.
Texts& texts() {
  static auto* one = new Texts;
  return *one;
}

}  // namespace

namespace detail {

void fail(const CheckText& text, std::int64_t position, std::int64_t value) {
  using fmt::arg;
  throw ValueError(fmt::format(fmt::runtime(text.text), arg("position", position), arg("value", value),
                               arg("row", position / text.row_length), arg("column", position % text.row_length)));
}

std::int64_t number_of(const CheckText& text) {
  Texts& known = texts();
  const std::lock_guard lock(known.mutex);
  const auto next = static_cast<std::int64_t>(known.all.size());
  const auto [place, is_new] = known.numbers.try_emplace({text.text, text.row_length}, next);
  if (is_new) known.all.push_back(text);
  return place->second;
}

void throw_failed_check(std::int64_t number, std::int64_t position, std::int64_t value) {
  CheckText text;
  {
    Texts& known = texts();
    const std::lock_guard lock(known.mutex);
    text = known.all.at(static_cast<std::size_t>(number));
  }
  fail(text, position, value);
}

Tensor indices_checked_on_device(const Tensor& indices, std::int64_t limit, const CheckText& text) {
  const Device device = indices.device();
  Tensor checked = Tensor::empty(indices.shape(), DType::kInt64, device);
  device_backend::check_indices(device.index, indices.dtype(), indices.raw(), indices.numel(), limit,
                                checked.mutable_data<std::int64_t>(), number_of(text));
  return checked;
}

std::int64_t first_outside(const Tensor& indices, std::int64_t limit) {
  const std::int64_t* begin = indices.data<std::int64_t>();
  const std::int64_t* end = begin + indices.numel();
  const std::int64_t* at =
      std::find_if(begin, end, [limit](std::int64_t index) { return index < 0 || index >= limit; });
  return at == end ? -1 : at - begin;
}

}  // namespace detail

void require_true_in_each_row(const Tensor& flags, const CheckText& text) {
  const Device device = flags.device();
  const std::int64_t rows = flags.size(0), columns = flags.size(1);
  const bool* row = flags.data<bool>();
  if (!device.is_cpu()) return device_backend::check_rows(device.index, row, rows, columns, detail::number_of(text));
  for (std::int64_t i = 0; i < rows; ++i, row += columns) {
    if (std::none_of(row, row + columns, [](bool flag) { return flag; })) detail::fail(text, i, 0);
  }
}

}  // namespace tapecache
