#pragma once

namespace tapecache::kernels {

/// Whether a gradient kernel overwrites its destination or adds to it.
enum class Mode { kWrite, kAccumulate };

}  // namespace tapecache::kernels
