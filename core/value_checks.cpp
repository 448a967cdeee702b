#include "tapecache/core/value_checks.h"

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

}  // namespace detail

Tensor checked_indices(const Tensor& indices, std::int64_t limit, const std::function<CheckText()>& text) {
  return backend_of(indices.device()).checks.indices(indices, limit, text);
}

void require_true_in_each_row(const Tensor& flags, const CheckText& text) {
  backend_of(flags.device()).checks.rows(flags, text);
}

std::int64_t first_non_finite(const Tensor& tensor) {
  if (!is_floating(tensor.dtype())) return -1;
  const Device device = tensor.device();
  return backend_of(device).fills.first_non_finite(device.index, tensor.dtype(), tensor.raw(), tensor.numel());
}

}  // namespace tapecache
