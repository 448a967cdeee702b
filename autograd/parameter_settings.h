#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "tapecache/autograd/variable.h"
#include "tapecache/core/files.h"

#pragma GCC visibility push(hidden)

namespace tapecache {

/// The name that a parameter has in a file; empty for one that is not there. An empty function is a ValueError.
using NameInFile = std::function<std::string(const Parameter&)>;

/// Adds to a file's metadata the parameters' settings, as JSON under one key: {"layer_norm1.weight": {"epsilon":
/// "1e-05"}}.
void write_settings(std::map<std::string, std::string>& metadata, std::span<const Parameter> parameters,
                    const NameInFile& name);

/// A sentence for each setting that was saved with a parameter's values and is another now; none where the file has no
/// settings. Throws FileError where the file's are no JSON of that kind.
std::vector<std::string> other_settings(const std::filesystem::path& path, const SafetensorsReader& file,
                                        std::span<const Parameter> parameters, const NameInFile& name);

}  // namespace tapecache

#pragma GCC visibility pop
