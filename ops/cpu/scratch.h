#pragma once

#include <cstdint>
#include <memory>
#include <new>

namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT {

/// Memory that grows and loses its contents when it does. A type of this namespace, since the functions of a thread-local
/// standard container would be shared with code that is compiled for another instruction set.
template <class T>
class Buffer {
 public:
  T* at_least(std::int64_t count) {
    if (count > count_) {
      count_ = 0;
      data_.reset();
      data_.reset(static_cast<T*>(::operator new(static_cast<std::size_t>(count) * sizeof(T), kAlignment)));
      count_ = count;
    }
    return data_.get();
  }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(T* p) const { ::operator delete(p, kAlignment); }
  };
  std::unique_ptr<T, Free> data_;
  std::int64_t count_ = 0;
};

/// Room for `count` elements of the calling thread's own; another one for each Use.
template <class T, class Use>
T* thread_scratch(std::int64_t count) {
  thread_local Buffer<T> buffer;
  return buffer.at_least(count);
}

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT
