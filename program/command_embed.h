#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "model_options.h"
#include "pairs_file.h"

namespace tapecache::program {

struct EmbedCommand {
  ModelOptions model = {};
  std::filesystem::path input = {}, images = {}, out = {};  ///< texts or, in their place, images
  TextsOptions texts = {};
  std::optional<std::string> prefix = {}, prompt = {};  ///< text, or the name of one of the model's
  bool float16 = false;
};

/// Writes a vector for each text, in their order. Gives the exit code; throws what the library throws.
int run_embed(const EmbedCommand& command);

}  // namespace tapecache::program
