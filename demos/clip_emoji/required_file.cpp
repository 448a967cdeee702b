#include "required_file.h"

#include <system_error>

#include <fmt/format.h>

#include "tapecache/core/error.h"

namespace clip_emoji {

void require_file(const std::filesystem::path& path, std::string_view expected, std::string_view debian_package) {
  std::error_code ignored;
  const auto status = std::filesystem::status(path, ignored);
  if (std::filesystem::is_regular_file(status)) return;
  throw tapecache::FileError(fmt::format("{}: {}, expected {}; on Debian it comes with the package {}", path.string(),
                                         std::filesystem::exists(status) ? "not a file" : "no such file", expected,
                                         debian_package));
}

}  // namespace clip_emoji
