#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "tapecache/core/tensor.h"

namespace tapecache {

/// The contents of a safetensors file: tensors by name, and free text by key (the format's `__metadata__`).
struct SafetensorsFile {
  std::map<std::string, Tensor> tensors = {};
  std::map<std::string, std::string> metadata = {};
};

/// Reads a file in the safetensors format (https://github.com/huggingface/safetensors). Throws FileError naming the
/// path where it is missing, truncated, malformed, or holds a type this library has none for.
SafetensorsFile read_safetensors(const std::filesystem::path& path);

/// Writes atomically: the file appears whole under its name or not at all. Throws FileError.
void write_safetensors(const std::filesystem::path& path, const SafetensorsFile& file);

}  // namespace tapecache
