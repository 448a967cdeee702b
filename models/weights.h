#pragma once

#include <filesystem>
#include <span>
#include <string>

#include "tapecache/models/builder.h"

namespace tapecache::models {

struct LoadOptions {
  /// Refuse a file that holds more than the model. Integers whose name ends in `position_ids`, which Hugging Face's exports
  /// carry, are passed over anyway.
  bool strict = true;
  /// What names in the file have before the model's, as "bert." or, in a training checkpoint, "model."; what stands under
  /// other names is passed over.
  std::string prefix = {};
  bool allow_non_finite = false;  ///< take NaN and Inf too
  /// Take values that were saved under other settings (`Parameter::settings`), as for another pooling.
  bool allow_other_settings = false;
};

/// Writes the parameters' values under their names, and their settings, as safetensors, atomically. Throws FileError, and
/// ValueError where two parameters have one name.
void save_weights(const std::filesystem::path& path, std::span<const Parameter> parameters);
/// The same for the parameters and buffers of a model: those under the builder's name, which the file leaves out.
void save_weights(const std::filesystem::path& path, const Builder& model);

/// Reads values by name, converted from any floating type to the parameter's. Everything is checked before anything is
/// changed. Throws FileError naming the first eight of what is missing; of what is of another shape, not floating or (as the
/// parameter's type) not finite; of what was saved under other settings, such as other heads, another activation or epsilon,
/// where the file tells; and, if strict, of what the file holds beyond the parameters.
void load_weights(const std::filesystem::path& path, std::span<const Parameter> parameters, const LoadOptions& options = {});
/// The same for the parameters and buffers of a model: those under the builder's name, which the file does not have. So
/// a published encoder is loaded into `builder.child("encoder")`, beside a head of one's own.
void load_weights(const std::filesystem::path& path, const Builder& model, const LoadOptions& options = {});

}  // namespace tapecache::models
