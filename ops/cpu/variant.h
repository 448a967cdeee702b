#pragma once

#include <span>

#include "tapecache/ops/kernels/table.h"

#pragma GCC visibility push(hidden)

/// One set of CPU kernels, compiled for one instruction set in a namespace of its own. A build has one, or
/// (`-Dcpu=portable`) one for each level of x86-64.
namespace tapecache::kernels::cpu {

/// Groups of instructions that the compiler was allowed to use.
struct Needs {
  bool sse42, avx2, avx512;  ///< levels 2, 3 and 4 of x86-64
};

struct Variant {
  const char* name;  ///< as the `cpu` option says it
  Needs needs;
  const KernelTable* table;
};

/// Those of this build, the most demanding last. Made by the build files.
std::span<const Variant* const> variants();

}  // namespace tapecache::kernels::cpu

#pragma GCC visibility pop
