#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "emoji_source.h"
#include "tapecache/core/dtype.h"

namespace clip_emoji {

/// What the command line asks for.
struct Options {
  EmojiPaths paths;
  std::filesystem::path out = "out/clip_emoji";
  bool quick = false;
  std::int64_t steps = 0;        ///< of the three ways at the small batch; 0: the run's default
  std::int64_t steps_large = 0;  ///< of gradcache_large; 0: the run's default
  std::int64_t batch = 64;
  std::int64_t chunk = 16;
  std::int64_t batch_large = 1024;
  std::int64_t memory_limit_mib = 128;
  int threads = 0;  ///< 0: as many as there are processors
  std::uint64_t seed = 1;
  tapecache::DType dtype = tapecache::DType::kFloat32;
};

/// Parses and checks the command line. Where it asks for help or is wrong, prints that and gives the exit code
/// instead.
struct ParsedOptions {
  Options options;
  std::optional<int> exit_code;
};
ParsedOptions parse_options(int argc, char** argv);

}  // namespace clip_emoji
