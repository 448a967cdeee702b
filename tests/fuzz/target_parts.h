#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <span>
#include <string_view>

#include <fmt/format.h>

#include "tapecache/core/error.h"
#include "targets.h"

namespace tapecache::testing {

// Targets by what they read.
std::span<const FuzzTarget> tensor_targets();
std::span<const FuzzTarget> text_targets();
std::span<const FuzzTarget> tokenizer_targets();
std::span<const FuzzTarget> folder_targets();
std::span<const FuzzTarget> image_targets();

inline void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "fuzz: %s\n", what);
  std::abort();
}

/// A file of these bytes, in memory alone.
class MemoryFile {
 public:
  explicit MemoryFile(std::string_view bytes) : descriptor_(::memfd_create("fuzz", 0)) {
    require(descriptor_ >= 0, "no file in memory could be made");
    while (!bytes.empty()) {
      const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
      require(written > 0, "a file in memory could not be written");
      bytes.remove_prefix(static_cast<std::size_t>(written));
    }
  }
  ~MemoryFile() { ::close(descriptor_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  std::filesystem::path path() const { return fmt::format("/proc/self/fd/{}", descriptor_); }

 private:
  int descriptor_;
};

/// What a target may refuse with.
template <class Read>
bool takes(Read read) {
  try {
    read();
    return true;
  } catch (const FileError&) {
  } catch (const OutOfMemory&) {
  }
  return false;
}

/// Bytes that are files one after another, each after a line with its name: "=== 1_Pooling/config.json".
template <class Take>
void for_each_file(std::string_view bytes, Take take) {
  constexpr std::string_view kMark = "=== ";
  while (bytes.starts_with(kMark)) {
    const std::size_t line = std::min(bytes.find('\n'), bytes.size());
    const std::string_view name = bytes.substr(kMark.size(), line - std::min(line, kMark.size()));
    bytes.remove_prefix(std::min(line + 1, bytes.size()));
    const std::size_t end = std::min(bytes.find(kMark), bytes.size());
    take(name, bytes.substr(0, end));
    bytes.remove_prefix(end);
  }
}

}  // namespace tapecache::testing
