#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "tapecache/data/tokenizers/fields.h"

#pragma GCC visibility push(hidden)

namespace tapecache::data::tokenizers {

/// What the files beside a tokenizer say of it.
struct Settings {
  std::optional<std::int64_t> max_tokens;
  std::optional<std::string> pad_token;
  std::optional<bool> pads_left, cuts_left;
};

/// A tokenizer.json, or what one would hold of a folder that has older files. The model's folder counts where that has
/// no config.json.
std::unique_ptr<JsonFile> find_tokenizer(const std::filesystem::path& folder_or_file,
                                         const std::filesystem::path& model);

/// Of `tokenizer_config.json` and `special_tokens_map.json`, where the folder has them.
Settings read_settings(const std::filesystem::path& folder);

}  // namespace tapecache::data::tokenizers

#pragma GCC visibility pop
