#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "tapecache/core/error.h"

namespace vit_fashion_mnist {

/// Bytes of the sizes that an IDX file gives, the last axis running fastest.
struct IdxBytes {
  std::vector<std::int64_t> sizes = {};
  std::vector<std::uint8_t> bytes = {};
};

/// Reads an IDX file of unsigned bytes with so many axes, the format of MNIST, compressed by gzip or not. Throws
/// FileError naming the path for a file that is missing, damaged, of another type or number of axes, or longer or
/// shorter than its header says.
IdxBytes read_idx(const std::filesystem::path& path, int axes);

/// Pictures [count, side, side] and the class of each.
struct LabelledImages {
  std::int64_t count = 0, side = 0;
  std::vector<std::uint8_t> pixels = {};
  std::vector<std::uint8_t> classes = {};
};

/// Reads `NAME-images-idx3-ubyte.gz` and `NAME-labels-idx1-ubyte.gz` of a folder. Throws FileError as `read_idx`, and
/// where they differ in number, the pictures are not square or have no pixels, or a class is not below `classes`.
LabelledImages read_labelled_images(const std::filesystem::path& folder, const char* name, int classes);

}  // namespace vit_fashion_mnist
