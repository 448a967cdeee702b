#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "tapecache/ops/cuda/capture.h"
#include "tapecache/ops/cuda/scratch.h"
#include "tapecache/ops/cuda/status.h"

namespace tapecache::kernels::cuda {

/// A value that kernels leave on the device; waits for them.
template <class T>
T fetch(const T* there) {
  static_assert(std::is_trivially_copyable_v<T>);
  T value;
  require_no_capture();
  check(cudaMemcpyAsync(&value, there, sizeof(T), cudaMemcpyDeviceToHost, current_stream()), "fetching a result");
  wait();
  return value;
}

/// Copies bytes of the host, as many as make whole words, to the current device. They travel as parameters of kernels,
/// and so may change as soon as this returns, and can be recorded.
void upload(const void* from, std::size_t bytes, void* to);

/// Values of the host for the kernels of one call.
template <class T>
class Uploaded {
 public:
  explicit Uploaded(std::span<const T> values) : there_(static_cast<std::int64_t>(values.size())) {
    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) % sizeof(std::uint32_t) == 0);
    upload(values.data(), values.size_bytes(), there_.data());
  }
  T* data() const { return there_.data(); }

 private:
  Scratch<T> there_;
};

}  // namespace tapecache::kernels::cuda
