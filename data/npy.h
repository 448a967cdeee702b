#pragma once

#include <filesystem>

#include "tapecache/core/tensor.h"

/// NumPy's .npy files (numpy.lib.format): one array, in C order and little-endian.
namespace tapecache::data {

/// Reads an array of f16, f32, f64, i32, i64, u8 or bool, of format 1, 2 or 3. Throws FileError naming the path for a
/// file that is missing, truncated, longer than its header says or malformed, of another type, of more axes than a
/// Shape has, in Fortran order or big-endian; and OutOfMemory.
Tensor read_npy(const std::filesystem::path& path);

/// Writes a tensor, from any device, atomically. Throws DTypeError for bf16, which NumPy has no name for, and
/// FileError.
void write_npy(const std::filesystem::path& path, const Tensor& tensor);

}  // namespace tapecache::data
