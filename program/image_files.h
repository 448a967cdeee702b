#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "pairs_file.h"

namespace tapecache::program {

/// Whether a file's name ends as those of images do: .jpg, .jpeg or .png, in any case.
bool is_image(const std::filesystem::path& path);

/// The images of a folder and of those within it (.jpg, .jpeg, .png), ordered by their paths; or those that a file
/// names, as `read_texts` reads it, by paths from the file's own folder. Throws FileError for a folder without any, for
/// a file that is missing, and as `read_texts`.
std::vector<ImageFile> list_images(const std::filesystem::path& folder_or_file, const TextsOptions& options = {});

}  // namespace tapecache::program
