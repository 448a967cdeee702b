#pragma once

#include <filesystem>
#include <span>
#include <string>

#include "tapecache/models/builder.h"

namespace tapecache::models {

struct LoadOptions {
  /// Refuse a file that holds more than the model. Passed over anyway are integers that other libraries keep with the
  /// weights (`position_ids`, `token_type_ids`, `num_batches_tracked`, `relative_position_index`), and beside a BERT
  /// the heads that it was published with (`pooler.`, `cls.`, `lm_head.`, `classifier.`, `qa_outputs.`), unless the
  /// model has them too. Whether strict or not, a file is refused that goes on with a numbered part of the model, as
  /// with more layers than the model has.
  bool strict = true;
  /// What names in the file have before the model's, as "bert." or, in a training checkpoint, "model."; what stands
  /// under other names is passed over.
  std::string prefix = {};
  bool allow_non_finite = false;  ///< take NaN and Inf too
  /// Values of the host that are stored in the model's own types become views of the file, mapped into memory, as
  /// `SafetensorsOptions::memory_map` says, with its danger: the file must not be written to or truncated as long as
  /// the model lives. For serving, where many processes then share one copy; training writes to every page, which is
  /// copied then. The memory that the tensors had before, wrapped or not, is released: pointers to it are no longer
  /// good.
  bool memory_map = false;
  /// Take values that were saved under other settings (`Parameter::settings`), as for another pooling.
  bool allow_other_settings = false;
};

/// Writes the parameters' values under their names, and their settings, as safetensors, atomically, with `format: pt`
/// as metadata. Throws FileError, and ValueError where two parameters have one name.
void save_weights(const std::filesystem::path& path, std::span<const Parameter> parameters);
/// The same for the parameters and buffers of a model: those under the builder's name, which the file leaves out.
void save_weights(const std::filesystem::path& path, const Builder& model);

/// Reads values by name, converted from any floating type to the parameter's; nothing else of the file is read. A
/// norm's `weight` and `bias` may be called `gamma` and `beta`, a single number may be stored as [] or [1], and a tied
/// tensor may be there once, its other name in the metadata. Everything is checked, and there is memory for it, before
/// anything is changed. Throws OutOfMemory, and FileError naming the first eight of what is missing; of what is of
/// another shape, not floating or (as the parameter's type) not finite; of what was saved under other settings, such as
/// other heads, another activation or epsilon, where the file tells; and, if strict, of what the file holds beyond the
/// parameters.
void load_weights(const std::filesystem::path& path, std::span<const Parameter> parameters,
                  const LoadOptions& options = {});
/// The same for the parameters and buffers of a model: those under the builder's name, which the file does not have. So
/// a published encoder is loaded into `builder.child("encoder")`, beside a head of one's own.
void load_weights(const std::filesystem::path& path, const Builder& model, const LoadOptions& options = {});

}  // namespace tapecache::models
