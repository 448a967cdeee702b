#pragma once

#include <cstdint>

namespace tapecache::kernels {

/// Of a tile of a matrix that exists one tile at a time.
struct TileSizes {
  std::int64_t rows = 1, cols = 1;
};

}  // namespace tapecache::kernels
