#pragma once

#include <filesystem>

#include "model_options.h"
#include "pairs_file.h"

namespace tapecache::program {

struct EvalCommand {
  ModelOptions model = {};
  std::filesystem::path pairs = {};
  PairsOptions columns = {};
  PrefixOptions prefixes = {};
  bool json = false;
};

/// Prints how well each anchor finds its positive among all texts of the pairs. Gives the exit code; throws what the
/// library throws.
int run_eval(const EvalCommand& command);

}  // namespace tapecache::program
