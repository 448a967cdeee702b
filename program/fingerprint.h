#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

#include <fmt/format.h>

namespace tapecache::program {

/// 64 bits made of all that is added, in its order: the same on every machine of the same byte order.
class Fingerprint {
 public:
  /// A text, so that "a", "bc" and "ab", "c" are others.
  void add(std::string_view text) {
    for (const char byte : fmt::format("{} ", text.size())) add_byte(byte);  // FNV-1a
    for (const char byte : text) add_byte(byte);
  }
  /// Bits of numbers, eight bytes at a time.
  void add(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      std::uint64_t word = 0;
      const std::size_t count = bytes.size() < sizeof word ? bytes.size() : sizeof word;
      std::memcpy(&word, bytes.data(), count);
      value_ = (value_ ^ word) * 0xff51afd7ed558ccd;
      value_ ^= value_ >> 32;
      bytes = bytes.subspan(count);
    }
  }
  std::uint64_t value() const { return value_; }

 private:
  void add_byte(char byte) { value_ = (value_ ^ static_cast<unsigned char>(byte)) * 0x100000001b3; }

  std::uint64_t value_ = 0xcbf29ce484222325;
};

}  // namespace tapecache::program
