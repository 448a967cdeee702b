#include "image_files.h"

#include <algorithm>
#include <cctype>
#include <system_error>

#include <fmt/format.h>

#include "tapecache/core/error.h"

namespace tapecache::program {

bool is_image(const std::filesystem::path& path) {
  std::string ending = path.extension().string();
  for (char& c : ending) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return ending == ".jpg" || ending == ".jpeg" || ending == ".png";
}

namespace {

std::vector<ImageFile> of_folder(const std::filesystem::path& folder) {
  std::vector<ImageFile> files;
  try {
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
      if (is_image(entry.path()) && entry.is_regular_file()) files.push_back({entry.path(), ""});
    }
  } catch (const std::filesystem::filesystem_error& e) {
    throw FileError(fmt::format("{}: cannot be read: {}", folder.string(), e.code().message()));
  }
  if (files.empty()) throw FileError(fmt::format("{}: holds no .jpg, .jpeg or .png", folder.string()));
  std::ranges::sort(files, {}, &ImageFile::path);
  return files;
}

}  // namespace

std::vector<ImageFile> list_images(const std::filesystem::path& folder_or_file, const TextsOptions& options) {
  std::error_code error;
  if (std::filesystem::is_directory(folder_or_file, error)) return of_folder(folder_or_file);
  TextsOptions paths = options;
  paths.images = true;
  std::vector<ImageFile> files;
  for (const std::string& name : read_texts(folder_or_file, paths)) {
    files.push_back(
        {folder_or_file.parent_path() / name, fmt::format("{}: row {}", folder_or_file.string(), files.size() + 1)});
    if (!std::filesystem::is_regular_file(files.back().path, error)) {
      throw FileError(fmt::format("{}: there is no file {}", files.back().where, files.back().path.string()));
    }
  }
  return files;
}

}  // namespace tapecache::program
