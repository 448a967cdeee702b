#pragma once

#include <cstdint>

#pragma GCC visibility push(hidden)

namespace tapecache::kernels {

/// Bytes of a core's second-level cache as the system reports it; 512 KiB where it reports nothing.
std::int64_t second_level_cache();

}  // namespace tapecache::kernels

#pragma GCC visibility pop
