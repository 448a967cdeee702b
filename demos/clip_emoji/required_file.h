#pragma once

#include <filesystem>
#include <string_view>

namespace clip_emoji {

/// Throws tapecache::FileError unless `path` is a regular file; the message names the path, what was `expected` and
/// the Debian package that ships it.
void require_file(const std::filesystem::path& path, std::string_view expected, std::string_view debian_package);

}  // namespace clip_emoji
