#pragma once

#include <cstdint>
#include <filesystem>

#include "model_options.h"
#include "pairs_file.h"
#include "training_loss.h"

namespace tapecache::program {

struct CheckGradientCommand {
  ModelOptions model = {};
  std::filesystem::path pairs = {};
  PairsOptions columns = {};
  PrefixOptions prefixes = {};
  LossOptions loss = {};
  std::int64_t samples = 64, chunk = 8;
  std::uint64_t seed = 0;
};

/// Compares the gradient of the cached step with that of the whole batch at once, on the first pairs of the file, and
/// prints how far they lie apart. Gives the exit code: kFailed where that is more than rounding.
int run_check_gradient(const CheckGradientCommand& command);

}  // namespace tapecache::program
