#pragma once

#include <filesystem>
#include <span>
#include <string>

#include "tapecache/models/builder.h"

namespace tapecache::models {

struct LoadOptions {
  /// Refuse a file with tensors that the model does not have. Two kinds are always ignored, unless the model has them:
  /// integers that other libraries store with the weights (`position_ids`, `token_type_ids`, `num_batches_tracked`,
  /// `relative_position_index`) and, for a BERT, the heads it was published with (`pooler.`, `cls.`, `lm_head.`,
  /// `classifier.`, `qa_outputs.`). A file that continues a numbered part of the model, as with more layers than the
  /// model has, is refused whether strict or not.
  bool strict = true;
  /// A prefix of the names in the file, such as "bert." or, in a training checkpoint, "model.". Tensors without it are
  /// ignored.
  std::string prefix = {};
  bool allow_non_finite = false;  ///< accept NaN and Inf
  /// Make host values that are stored in the model's own types views of the file, mapped into memory, as described
  /// (with its danger) at `SafetensorsOptions::memory_map`: the file must not be written to or truncated while the
  /// model lives. This is for serving, where many processes then share one copy; training writes to every page and so
  /// copies them all. The tensors' previous memory, wrapped or not, is released, and pointers to it become invalid.
  bool memory_map = false;
  /// Accept values that were saved under other settings (`Parameter::settings`), such as another pooling.
  bool allow_other_settings = false;
};

/// Writes the parameters' values under their names, and their settings, to a safetensors file, atomically, with
/// `format: pt` in the metadata. Throws FileError, and ValueError if two parameters share a name.
void save_weights(const std::filesystem::path& path, std::span<const Parameter> parameters);
/// The same for all parameters and buffers under the builder's prefix, which the names in the file leave out.
void save_weights(const std::filesystem::path& path, const Builder& model);

/// Reads the parameters' values by name, converting any floating type to the parameter's; the rest of the file is not
/// read. A norm's `weight` and `bias` may be called `gamma` and `beta`, a single number may be stored as [] or [1], and
/// a tied tensor may be stored once, with its other name in the metadata. All checks and allocations are done before
/// anything is changed. Throws OutOfMemory, and FileError, which names the first eight tensors that are missing; that
/// have another shape, are not floating or (in the parameter's type) not finite; that were saved under other settings,
/// such as a number of heads, an activation or an epsilon, if the file records them; and, if strict, that the model
/// does not have.
void load_weights(const std::filesystem::path& path, std::span<const Parameter> parameters,
                  const LoadOptions& options = {});
/// The same for all parameters and buffers under the builder's prefix, which the names in the file do not have. Thus a
/// published encoder can be loaded into `builder.child("encoder")` beside a new head.
void load_weights(const std::filesystem::path& path, const Builder& model, const LoadOptions& options = {});

}  // namespace tapecache::models
