#pragma once

#include <cstdint>
#include <new>

namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT {

/// Memory that grows and loses its contents when it does. A type of this namespace, since the functions of a
/// thread-local standard container would be shared with code that is compiled for another instruction set.
template <class T>
class Buffer {
 public:
  constexpr Buffer() = default;
  T* at_least(std::int64_t count) {
    if (count > count_) {
      free();
      data_ = static_cast<T*>(::operator new(static_cast<std::size_t>(count) * sizeof(T), kAlignment));
      count_ = count;
    }
    return data_;
  }
  void free() {
    ::operator delete(data_, kAlignment);
    data_ = nullptr;
    count_ = 0;
  }

 private:
  static constexpr std::align_val_t kAlignment{64};
  T* data_ = nullptr;
  std::int64_t count_ = 0;
};

template <class T>
struct FreeAtEnd {
  Buffer<T>& buffer;
  ~FreeAtEnd() { buffer.free(); }
};

/// Room for `count` elements of the calling thread's own; another one for each Use.
template <class T, class Use>
T* thread_scratch(std::int64_t count) {
  // Without a destructor it can still be used by those of a program's static objects, which run after the main
  // thread's.
  constinit thread_local Buffer<T> buffer;
  thread_local const FreeAtEnd<T> end{buffer};
  return buffer.at_least(count);
}

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT
