#include "tapecache/gradcache/step.h"

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "tapecache/core/error.h"

namespace tapecache::gradcache {

const Variable& Representations::operator[](std::size_t index) const {
  if (index >= values_.size()) {
    throw ValueError(fmt::format("representations: none has the number {}, there are {}: '{}'", index, values_.size(),
                                 fmt::join(names_, "', '")));
  }
  return values_[index];
}

const Variable& Representations::at(std::string_view name) const {
  const auto found = std::find(names_.begin(), names_.end(), name);
  if (found == names_.end()) {
    throw ValueError(
        fmt::format("representations: none is named '{}', there are '{}'", name, fmt::join(names_, "', '")));
  }
  return values_[static_cast<std::size_t>(found - names_.begin())];
}

}  // namespace tapecache::gradcache
