#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "tapecache/core/error.h"

namespace vit_fashion_mnist {

inline constexpr int kClasses = 10;
inline constexpr std::array<const char*, kClasses> kClassNames{"T-shirt", "Trouser", "Pullover", "Dress", "Coat",
                                                               "Sandal",  "Shirt",   "Sneaker",  "Bag",   "Boot"};

/// How many pictures of each class (row) were taken for each (column).
class Confusion {
 public:
  void add(int truth, int found) { ++counts_[static_cast<std::size_t>(truth)][static_cast<std::size_t>(found)]; }

  std::int64_t count(int truth, int found) const {
    return counts_[static_cast<std::size_t>(truth)][static_cast<std::size_t>(found)];
  }
  std::int64_t of_class(int truth) const;
  std::int64_t total() const;
  std::int64_t right() const;
  /// Share of all that are right; 0 of none.
  double accuracy() const;

 private:
  std::array<std::array<std::int64_t, kClasses>, kClasses> counts_{};
};

/// The matrix as an SVG picture: a row's cells are shaded by their share of that row.
std::string confusion_svg(const Confusion& confusion);

}  // namespace vit_fashion_mnist
