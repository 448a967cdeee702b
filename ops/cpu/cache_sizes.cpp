#include "tapecache/ops/cpu/cache_sizes.h"

#include <unistd.h>

// Compiled for any processor of the kind, since all variants of the kernels ask for it.
namespace tapecache::kernels {

std::int64_t second_level_cache() {
  static const std::int64_t bytes = [] {
    long reported = 0;
#if defined(_SC_LEVEL2_CACHE_SIZE)
    reported = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
    constexpr std::int64_t kUsual = 512 << 10;
    return reported > 0 ? static_cast<std::int64_t>(reported) : kUsual;
  }();
  return bytes;
}

}  // namespace tapecache::kernels
