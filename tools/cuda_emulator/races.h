#pragma once

// Finds two threads of a kernel that access the same byte, at least one of them writing, with nothing that orders them.
// In a build with `-Demulated_races=true` the compiler calls `race_hooks.cpp` at each access of a kernel; in others
// nobody calls `note_read` and `note_write`.
//
// What orders two accesses: a barrier of the block between threads of one block, __syncwarp between lanes of one warp,
// and nothing between threads of two blocks. Shuffles, votes and instructions of tensor cores do not, as CUDA does not
// say that they order memory.

#include <cstddef>
#include <cstdint>

namespace emulation {

/// A kernel's begin and end on the calling host thread.
void begin_watching();
void end_watching();
void watch_block(std::uint32_t block);
/// All threads of the block, or all of a warp, have met.
void block_has_met();
void warp_has_met(unsigned warp);

/// The running thread reads or writes; `code` is the address of the instruction. Nothing outside a kernel.
void note_read(const void*, std::size_t bytes, const void* code);
void note_write(const void*, std::size_t bytes, const void* code);

}  // namespace emulation
