#include "targets.h"

#include <algorithm>
#include <stdexcept>
#include <vector>

#include <fmt/format.h>

#include "target_parts.h"

namespace tapecache::testing {

std::span<const FuzzTarget> fuzz_targets() {
  static const std::vector<FuzzTarget> all = [] {
    std::vector<FuzzTarget> targets;
    for (const auto& some :
         {tensor_targets(), text_targets(), tokenizer_targets(), folder_targets(), image_targets()}) {
      targets.insert(targets.end(), some.begin(), some.end());
    }
    return targets;
  }();
  return all;
}

const FuzzTarget& fuzz_target(std::string_view name) {
  const auto all = fuzz_targets();
  const auto found = std::ranges::find(all, name, &FuzzTarget::name);
  if (found == all.end()) throw std::out_of_range(fmt::format("fuzz: there is no target '{}'", name));
  return *found;
}

}  // namespace tapecache::testing
