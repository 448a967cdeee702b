#pragma once

#include <cstdint>

#include "tapecache/ops/cuda/block_reduce.cuh"

/// Products on tensor cores, by one warp: how a 16x8 matrix D = A B + C, with A of 16x16 and B of 16x8 elements, lies
/// in the registers of its 32 lanes (PTX ISA, "Matrix Fragments for mma.m16n8k16"). With row = lane / 4 and pair = 2
/// (lane % 4):
///
///   A  a[0]: A[row][pair + {0, 1}]        a[1]: A[row + 8][pair + {0, 1}]
///      a[2]: A[row][pair + 8 + {0, 1}]    a[3]: A[row + 8][pair + 8 + {0, 1}]
///   B  b0: B[pair + {0, 1}][row]          b1: B[pair + 8 + {0, 1}][row]
///   C  c[0], c[1]: C[row][pair + {0, 1}]  c[2], c[3]: C[row + 8][pair + {0, 1}]
///
/// A and B are of 16 bits an element, two in a register, the one of the lower index in the lower half; C and D are f32.
/// `load_matrix_x4` brings four 8x8 matrices from shared memory: lane l says where row l % 8 of matrix l / 8 begins, at
/// a multiple of 16 bytes, and gets of matrix m, in to[m], M[row][pair + {0, 1}]; transposed, M[pair + {0, 1}][row].
///
///   mma_m16n8k16<Low>(c, a, b0, b1)        c += A B, of BFloat16 or Float16; all lanes of the warp must take part
///   load_matrix_x4(row, to)                as said above; all lanes of the warp must take part
///   load_matrix_x4_transposed(row, to)
///   pack<Low>(low, high)                   two f32, rounded to nearest even, as one register
///   unpack<Low>(pair)                      and back
///   copy_async<kBytes>(to, from, present)  queues a copy of 8 or 16 bytes to shared memory; zeros where not `present`
///   commit_copies()                        what this thread has queued since the last time becomes a group
///   wait_for_copies<kLeft>()               until all of this thread's groups but the last kLeft are there; for the
///                                          copies of other threads a barrier must follow
///   exp2_approximate(x)                    2^x to about 2 units in the last place; 0 where that is subnormal
#ifdef __CUDACC__
#include "tapecache/ops/cuda/tensor_core_ptx.cuh"
#else
#include <tensor_core_emulation.h>
#endif

namespace tapecache::kernels::cuda {

/// Of a lane, within fragments.
__device__ inline int fragment_row() { return static_cast<int>(threadIdx.x % kWarp) / 4; }
__device__ inline int fragment_pair() { return static_cast<int>(threadIdx.x % 4) * 2; }

}  // namespace tapecache::kernels::cuda
