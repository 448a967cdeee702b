#pragma once

#include <bit>
#include <cstdint>

namespace tapecache::kernels::cuda {

/// A number that many are divided by: below 2³¹ by a multiplication and a shift (Granlund & Montgomery 1994), which a
/// GPU does in a few instructions where a division takes dozens. For n >= 0 and a positive divisor.
class Divisor {
 public:
  constexpr explicit Divisor(std::int64_t divisor) : divisor_(divisor) {
    if (divisor >= kLimit) return;  // a multiplier of 0 gives 0, which is right for n below the limit
    const int bits = 64 - std::countl_zero(static_cast<std::uint64_t>(divisor - 1));
    shift_ = 31 + bits;
    multiplier_ = static_cast<std::uint32_t>(((std::uint64_t{1} << shift_) + static_cast<std::uint64_t>(divisor) - 1) /
                                             static_cast<std::uint64_t>(divisor));
  }

  constexpr std::int64_t quotient(std::int64_t n) const {
    if (n >= kLimit) return n / divisor_;
    return static_cast<std::int64_t>(static_cast<std::uint64_t>(static_cast<std::uint32_t>(n)) * multiplier_ >> shift_);
  }
  constexpr std::int64_t value() const { return divisor_; }

 private:
  static constexpr std::int64_t kLimit = std::int64_t{1} << 31;
  std::int64_t divisor_;
  std::uint32_t multiplier_ = 0;
  int shift_ = 0;
};

}  // namespace tapecache::kernels::cuda
