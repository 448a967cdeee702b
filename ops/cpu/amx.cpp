#include "tapecache/ops/cpu/amx.h"

#include <cstdint>
#include <cstdlib>
#include <string_view>

#include <fmt/format.h>

#include "tapecache/core/error.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace tapecache::kernels::amx {

namespace {

bool wanted() {
  const char* value = std::getenv("TAPECACHE_AMX");
  const std::string_view word = value ? value : "";
  if (word.empty() || word == "auto") return true;
  if (word == "never") return false;
  throw ValueError(fmt::format("TAPECACHE_AMX is '{}', expected never or auto", word));
}

#if defined(__x86_64__) && defined(__linux__)

constexpr int kTileData = 18;  // the number of the tiles' state, in XCR0 and in the system call

bool processor_has_it() {
  constexpr unsigned kOsXsave = 1u << 27, kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & kOsXsave)) return false;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  return (d & kAmxTile) && (d & kAmxBf16);
}

bool system_keeps_tiles() {
  constexpr unsigned kBoth = 3u << (kTileData - 1);  // their configuration and their data
  unsigned low = 0, high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low & kBoth) == kBoth;
}

/// For all threads of the process, those that run already too.
bool system_permits() {
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

bool available() { return processor_has_it() && system_keeps_tiles() && system_permits(); }

#else

bool available() { return false; }

#endif

}  // namespace

bool usable() {
  static const bool answer = wanted() && available();
  return answer;
}

}  // namespace tapecache::kernels::amx
