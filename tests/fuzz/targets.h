#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tapecache::testing {

/// Something that reads bytes of any kind: it takes them or refuses them by an exception of the library's. What it must
/// never do ends the program.
struct FuzzTarget {
  std::string_view name;
  void (*run)(std::string_view bytes);
  /// Whole and right inputs to begin with.
  std::vector<std::string> (*seeds)();
};

std::span<const FuzzTarget> fuzz_targets();

/// Throws std::out_of_range for a name that there is not.
const FuzzTarget& fuzz_target(std::string_view name);

}  // namespace tapecache::testing
