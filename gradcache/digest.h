#pragma once

#include <bit>
#include <cstdint>
#include <string_view>

#pragma GCC visibility push(hidden)

namespace tapecache::gradcache::detail {

/// A number for what ranks compare (FNV-1a).
class Digest {
 public:
  Digest& add(std::string_view text) {
    for (const char c : text) add_byte(static_cast<unsigned char>(c));
    add_byte(0xFF);  // in no UTF-8: two texts are not one
    return *this;
  }
  Digest& add(std::int64_t number) {
    for (int shift = 0; shift < 64; shift += 8) add_byte(static_cast<std::uint64_t>(number) >> shift & 0xFF);
    return *this;
  }
  Digest& add(double number) { return add(std::bit_cast<std::int64_t>(number)); }
  std::int64_t value() const { return static_cast<std::int64_t>(state_); }

 private:
  void add_byte(std::uint64_t byte) { state_ = (state_ ^ byte) * 0x100000001B3; }

  std::uint64_t state_ = 0xCBF29CE484222325;
};

}  // namespace tapecache::gradcache::detail

#pragma GCC visibility pop
