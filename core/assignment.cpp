#include "tapecache/core/assignment.h"

#include <cstring>

namespace tapecache::detail {

void assign(std::span<Assignment> assignments) {
  for (auto& [to, from, is_mapped] : assignments) {
    if (is_mapped && to.swap_memory(from)) continue;
    if (!to.device().is_cpu()) to.copy_from(from);
    else if (to.bytes() > 0) std::memcpy(to.mutable_raw(), from.raw(), to.bytes());
  }
}

}  // namespace tapecache::detail
