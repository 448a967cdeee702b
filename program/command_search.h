#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "model_options.h"
#include "pairs_file.h"

namespace tapecache::program {

struct SearchCommand {
  ModelOptions model = {};
  std::filesystem::path index = {}, texts = {};  ///< texts: those of the index, to be shown; may be empty
  TextsOptions columns = {};
  std::vector<std::string> queries = {};
  std::optional<std::string> prefix = {};
  std::int64_t top = 10;
  bool json = false;
};

/// Prints, for every query, the vectors of the index that are nearest to it. Gives the exit code; throws what the
/// library throws.
int run_search(const SearchCommand& command);

}  // namespace tapecache::program
