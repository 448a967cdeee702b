#pragma once

#include <cstdint>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#pragma GCC visibility push(hidden)

namespace tapecache::detail {

/// How a thread rounds, and whether it takes subnormal numbers for 0: what a program may set for each of its threads.
class FloatingMode {
 public:
  static FloatingMode of_this_thread() {
#if defined(__SSE__)
    return {_mm_getcsr() & ~kRaised};
#elif defined(__aarch64__)
    std::uint64_t control;
    asm volatile("mrs %0, fpcr" : "=r"(control));
    return {control};
#else
    return {0};
#endif
  }

  void take() const {
    if (of_this_thread().control_ == control_) return;
#if defined(__SSE__)
    _mm_setcsr(static_cast<unsigned>(control_) | (_mm_getcsr() & kRaised));
#elif defined(__aarch64__)
    asm volatile("msr fpcr, %0" : : "r"(control_));
#endif
  }

 private:
  static constexpr unsigned kRaised = 0x3f;  // which exceptions were: a result, not a mode

  FloatingMode(std::uint64_t control) : control_(control) {}

  std::uint64_t control_;
};

}  // namespace tapecache::detail

#pragma GCC visibility pop
