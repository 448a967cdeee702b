#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>

#include <fmt/format.h>

#include "tapecache/core/device_backend.h"
#include "tapecache/core/element.h"
#include "tapecache/core/error.h"
#include "tapecache/core/op_scope.h"
#include "tapecache/core/parallel_for.h"
#include "tapecache/core/value_checks.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

// The CPU as a device: the host's memory, and loops over it.

namespace tapecache {

namespace {

constexpr std::int64_t kElementBlock = 1 << 15;
constexpr std::size_t kAlignment = 64;

int count() { return 1; }
std::string name(int) { return "cpu"; }
std::vector<std::pair<std::string, std::string>> versions(int) {
  throw DeviceError("Device::versions: asked for those of the CPU, expected a CUDA device");
}
void require(const char*, int) {}
void synchronize(int) {}
std::uint64_t waits() { return 0; }

constexpr DeviceBackend::Devices kDevices{
    .count = count,
    .name = name,
    .versions = versions,
    .require = require,
    .synchronize = synchronize,
    .waits = waits,
};

/// Products read rows that are small pages apart when they pack a factor; with large pages they look up fewer
/// addresses. The system may ignore this.
void advise_huge_pages([[maybe_unused]] void* begin, [[maybe_unused]] std::size_t bytes) {
#if defined(__linux__)
  constexpr std::size_t kHugePage = 2 << 20;
  if (std::align(kHugePage, kHugePage, begin, bytes)) madvise(begin, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
}

bool shares_segments(int) { return true; }

void* allocate(int, std::size_t bytes) {
  void* memory = std::aligned_alloc(kAlignment, bytes);
  if (memory) advise_huge_pages(memory, bytes);
  return memory;
}

void release(int, void* memory) noexcept { std::free(memory); }
void trim(int) noexcept {}
void set_bytes(int, void* to, int byte, std::size_t bytes) { std::memset(to, byte, bytes); }

constexpr DeviceBackend::Memory kMemory{
    .alignment = kAlignment,
    .is_host = true,
    .is_pinned = false,
    .shares_segments = shares_segments,
    .allocate = allocate,
    .release = release,
    .trim = trim,
    .set_bytes = set_bytes,
};

void copy(int, void* to, const void* from, std::size_t bytes) {
  auto* const target = static_cast<std::byte*>(to);
  const auto* const source = static_cast<const std::byte*>(from);
  parallel_for(static_cast<std::int64_t>(bytes), kElementBlock * 4, [=](std::int64_t begin, std::int64_t end) {
    std::memcpy(target + begin, source + begin, static_cast<std::size_t>(end - begin));
  });
}

/// There is nothing that the host computes meanwhile, so that there is no event either.
detail::CopyEvent copy_async(int, DeviceBackend::Direction, void* to, const void* from, std::size_t bytes) {
  copy(0, to, from, bytes);
  return nullptr;
}

constexpr DeviceBackend::Copies kCopies{
    .from_host = copy,
    .to_host = copy,
    .within = copy,
    .async = copy_async,
};

void fill(int, DType dtype, void* to, double value, std::int64_t count) {
  dispatch_any(dtype, [&]<class T>() {
    T* p = static_cast<T*>(to);
    const T converted = convert_element<T>(value);
    parallel_for(count, kElementBlock,
                 [=](std::int64_t begin, std::int64_t end) { std::fill(p + begin, p + end, converted); });
  });
}

void convert(int, DType to_type, void* to, DType from_type, const void* from, std::int64_t count) {
  dispatch_any(from_type, [&]<class From>() {
    dispatch_any(to_type, [&]<class To>() {
      const From* source = static_cast<const From*>(from);
      To* target = static_cast<To*>(to);
      parallel_for(count, kElementBlock, [=](std::int64_t begin, std::int64_t end) {
        std::transform(source + begin, source + end, target + begin, [](From v) { return convert_element<To>(v); });
      });
    });
  });
}

void accumulate(int, DType dtype, void* to, const void* from, std::int64_t count) {
  dispatch_any_floating("accumulate", dtype, [&]<class T>() {
    const T* source = static_cast<const T*>(from);
    T* target = static_cast<T*>(to);
    parallel_for(count, kElementBlock, [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        if constexpr (kLowPrecision<T>) target[i] = T(static_cast<float>(target[i]) + static_cast<float>(source[i]));
        else target[i] += source[i];
      }
    });
  });
}

std::int64_t first_non_finite(int, DType dtype, const void* elements, std::int64_t count) {
  std::int64_t found = -1;
  dispatch_any_floating("first_non_finite", dtype, [&]<class T>() {
    const T* begin = static_cast<const T*>(elements);
    const T* at = std::find_if(begin, begin + count, [](T v) { return !std::isfinite(convert_element<double>(v)); });
    if (at != begin + count) found = at - begin;
  });
  return found;
}

constexpr DeviceBackend::Fills kFills{
    .fill = fill,
    .convert = convert,
    .accumulate = accumulate,
    .first_non_finite = first_non_finite,
};

Tensor check_indices(const Tensor& indices, std::int64_t limit, const std::function<CheckText()>& text) {
  Tensor wide = indices.to(DType::kInt64);
  const std::int64_t* begin = wide.data<std::int64_t>();
  const std::int64_t* end = begin + wide.numel();
  const std::int64_t* at =
      std::find_if(begin, end, [limit](std::int64_t index) { return index < 0 || index >= limit; });
  if (at != end) detail::fail(text(), at - begin, *at);
  return wide;
}

void check_rows(const Tensor& flags, const CheckText& text) {
  const std::int64_t rows = flags.size(0), columns = flags.size(1);
  const bool* row = flags.data<bool>();
  for (std::int64_t i = 0; i < rows; ++i, row += columns) {
    if (std::none_of(row, row + columns, [](bool flag) { return flag; })) detail::fail(text, i, 0);
  }
}

constexpr DeviceBackend::Checks kChecks{.indices = check_indices, .rows = check_rows};

void wait_on_host(const detail::CopyEvent& event) { cuda_backend.events.wait_on_host(event); }
void wait(int, const detail::CopyEvent& event) { wait_on_host(event); }
bool is_done(const detail::CopyEvent& event) noexcept { return cuda_backend.events.is_done(event); }
detail::CopyEvent end_of_work(int) { return nullptr; }

void wait_captured(int, const detail::CopyEvent&) {
  throw DeviceError(fmt::format("{}: waits for a copy that is only captured, which a captured step may not",
                                OpScope::current() ? OpScope::current() : "tensor"));
}

constexpr DeviceBackend::Events kEvents{
    .wait = wait,
    .wait_on_host = wait_on_host,
    .is_done = is_done,
    .end_of_work = end_of_work,
    .wait_captured = wait_captured,
};

}  // namespace

constinit const DeviceBackend cpu_backend{
    .devices = kDevices,
    .memory = kMemory,
    .pinned_memory = kMemory,
    .copies = kCopies,
    .fills = kFills,
    .checks = kChecks,
    .events = kEvents,
    .graphs = nullptr,
};

}  // namespace tapecache
