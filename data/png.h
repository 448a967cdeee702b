#pragma once

#include <filesystem>

#include "tapecache/data/image.h"

namespace tapecache::data {

/// Writes an image as PNG: grey, grey and alpha, RGB or (straight-alpha) RGBA for 1 to 4 channels. It is written
/// as an AtomicFile. Throws ValueError for a malformed image and FileError where it cannot be written.
void write_png(const std::filesystem::path& path, const Image& image);

}  // namespace tapecache::data
