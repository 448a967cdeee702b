#pragma once

#pragma GCC visibility push(hidden)

/// Intel's Advanced Matrix Extensions: eight tiles of 16 rows of 64 bytes, and instructions that multiply them.
namespace tapecache::kernels::amx {

/// Whether this process may multiply bf16 tiles: the processor can (AMX-TILE, AMX-BF16), the operating system keeps the
/// tiles of a thread, and it gave this process leave to use them, which the first call asks for. Never where the
/// environment variable TAPECACHE_AMX is `never`; throws ValueError where it is something else than that, `auto` or
/// nothing.
bool usable();

}  // namespace tapecache::kernels::amx

#pragma GCC visibility pop
