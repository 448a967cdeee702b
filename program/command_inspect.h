#pragma once

#include <filesystem>

namespace tapecache::program {

struct InspectCommand {
  std::filesystem::path folder = {};
  std::filesystem::path base = {};  ///< as ModelOptions has it
  bool parameters = false;          ///< list them all
};

/// Prints what a model's folder holds, and what of it cannot be used here. Gives the exit code: kBadInput where there
/// is such a thing.
int run_inspect(const InspectCommand& command);

}  // namespace tapecache::program
