// What the compiler calls at each access to memory in code that it was told to compile for the thread sanitizer; here
// instead of that sanitizer's own library, which knows nothing of blocks and warps.

#include <cstddef>

#include "races.h"

using emulation::note_read;
using emulation::note_write;

#define TAPECACHE_HOOKS(bytes)                                                                              \
  void __tsan_read##bytes(void* p) { note_read(p, bytes, __builtin_return_address(0)); }                    \
  void __tsan_write##bytes(void* p) { note_write(p, bytes, __builtin_return_address(0)); }                  \
  void __tsan_unaligned_read##bytes(void* p) { note_read(p, bytes, __builtin_return_address(0)); }          \
  void __tsan_unaligned_write##bytes(void* p) { note_write(p, bytes, __builtin_return_address(0)); }        \
  void __tsan_volatile_read##bytes(void* p) { note_read(p, bytes, __builtin_return_address(0)); }           \
  void __tsan_volatile_write##bytes(void* p) { note_write(p, bytes, __builtin_return_address(0)); }         \
  void __tsan_unaligned_volatile_read##bytes(void* p) { note_read(p, bytes, __builtin_return_address(0)); } \
  void __tsan_unaligned_volatile_write##bytes(void* p) { note_write(p, bytes, __builtin_return_address(0)); }

extern "C" {

TAPECACHE_HOOKS(1)
TAPECACHE_HOOKS(2)
TAPECACHE_HOOKS(4)
TAPECACHE_HOOKS(8)
TAPECACHE_HOOKS(16)

void __tsan_read_range(void* p, std::size_t bytes) { note_read(p, bytes, __builtin_return_address(0)); }
void __tsan_write_range(void* p, std::size_t bytes) { note_write(p, bytes, __builtin_return_address(0)); }

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}

// Atomics are the host's, and not watched.
unsigned char __tsan_atomic8_load(const volatile unsigned char* p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
unsigned __tsan_atomic32_fetch_add(volatile unsigned* p, unsigned value, int) {
  return __atomic_fetch_add(p, value, __ATOMIC_SEQ_CST);
}
unsigned __tsan_atomic32_fetch_sub(volatile unsigned* p, unsigned value, int) {
  return __atomic_fetch_sub(p, value, __ATOMIC_SEQ_CST);
}
unsigned long __tsan_atomic64_load(const volatile unsigned long* p, int) {
  return __atomic_load_n(p, __ATOMIC_SEQ_CST);
}
unsigned long __tsan_atomic64_fetch_add(volatile unsigned long* p, unsigned long value, int) {
  return __atomic_fetch_add(p, value, __ATOMIC_SEQ_CST);
}
}
