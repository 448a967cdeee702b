#pragma once

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

/// Values of the host for the kernels of one call, which may be changed as soon as they are copied.
template <class T>
class Uploaded {
 public:
  explicit Uploaded(std::span<const T> values) : there_(static_cast<std::int64_t>(values.size())) {
    static_assert(std::is_trivially_copyable_v<T>);
    if (values.empty()) return;
    check(cudaMemcpyAsync(there_.data(), lasting(values.data(), values.size_bytes()), values.size_bytes(),
                          cudaMemcpyHostToDevice, current_stream()),
          "handing values to a kernel");
  }
  T* data() const { return there_.data(); }

 private:
  Scratch<T> there_;
};

}  // namespace tapecache::kernels::cuda
