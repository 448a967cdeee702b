#pragma once

#include <filesystem>
#include <span>

#include "tapecache/models/builder.h"

namespace tapecache::models {

/// Writes the parameters' values under their names as safetensors, atomically. Throws FileError, and ValueError where
/// two parameters have one name.
void save_weights(const std::filesystem::path& path, std::span<const Parameter> parameters);
/// The same for all parameters and buffers of a model.
void save_weights(const std::filesystem::path& path, const Builder& model);

/// Reads values by name, converted from any floating type to the parameter's. Everything is checked before anything
/// is changed. Throws FileError naming what is missing, of another shape or not floating, and, if strict, what the
/// file holds beyond the parameters.
void load_weights(const std::filesystem::path& path, std::span<const Parameter> parameters, bool strict = true);
/// The same for all parameters and buffers of a model.
void load_weights(const std::filesystem::path& path, const Builder& model, bool strict = true);

}  // namespace tapecache::models
