#include "tapecache/data/tokenizers/delimiters.h"

#include <string>

#include <fmt/format.h>

namespace tapecache::data::tokenizers {

Delimiters read_delimiters(const Field& field) {
  const std::string& name = field.string();
  if (name == "Removed") return Delimiters::kRemoved;
  if (name == "Isolated") return Delimiters::kIsolated;
  if (name == "Contiguous") return Delimiters::kContiguous;
  if (name == "MergedWithPrevious") return Delimiters::kMergedWithPrevious;
  if (name == "MergedWithNext") return Delimiters::kMergedWithNext;
  throw field.refused(
      fmt::format("'{}', expected Removed, Isolated, Contiguous, MergedWithPrevious or MergedWithNext", name));
}

}  // namespace tapecache::data::tokenizers
