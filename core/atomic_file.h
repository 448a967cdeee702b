#pragma once

#include <filesystem>
#include <span>
#include <string_view>

#include "tapecache/core/language.h"

namespace tapecache {

/// Writes the parts one after another to a temporary file beside `path`, flushes it to disk and renames it, so that
/// the file appears whole under its name or not at all, also where several are written under one name at once. Creates
/// missing parent folders. Throws FileError.
void write_file_atomically(const std::filesystem::path& path, std::span<const std::string_view> parts);
void write_file_atomically(const std::filesystem::path& path, std::string_view contents);

}  // namespace tapecache
