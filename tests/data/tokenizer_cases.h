#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

#include "folder.h"

/// What tests/reference/make_tokenizers.py has written.
namespace tapecache::testing {

inline const std::filesystem::path kReference = TAPECACHE_TOKENIZERS;

/// The lower half of FNV-1a of 32-bit numbers.
inline std::uint32_t digest(std::span<const std::int32_t> ids) {
  std::uint64_t value = 0xCBF29CE484222325;
  for (const std::int32_t id : ids) {
    for (int shift = 0; shift < 32; shift += 8) {
      value = (value ^ (static_cast<std::uint32_t>(id) >> shift & 0xFF)) * 0x100000001B3;
    }
  }
  return static_cast<std::uint32_t>(value);
}

}  // namespace tapecache::testing
