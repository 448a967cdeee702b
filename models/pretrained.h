#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "tapecache/models/builder.h"
#include "tapecache/models/lora.h"
#include "tapecache/models/token_batch.h"

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

struct PretrainedOptions {
  DType dtype = DType::kFloat32;  ///< of the parameters, f32 or f64, whatever the files have
  /// Values that are stored in that type are views of the files, as LoadOptions::memory_map says, with its danger.
  bool memory_map = false;
  /// Where a folder has no modules.json: how a text's tokens become its representation, and whether that is then of
  /// length 1. Unless given, as sentence-transformers takes such a folder: the last token of what was saved as a causal
  /// language model, the mean of others.
  std::optional<TokenPooling> pooling = {};
  bool normalize = false;
  /// There, in their place: the pooler's output, tanh(W x + b) of the first token, as `pooler_output` in transformers.
  bool pooler = false;
  std::optional<double> dropout = {};  ///< in the place of config.json's
  bool checkpoint = false;             ///< keep only each block's input and compute the block again in backward
  std::uint64_t seed = 0;              ///< of parameters that are made under its builder later
  /// A folder whose files of sentence-transformers, tokenizer and preprocessor count before the model's own, such as an
  /// adapter's that sentence-transformers wrote: all of its modules where it has a modules.json.
  std::filesystem::path files_from = {};
};

/// The model of a folder in the layout of transformers, sentence-transformers or OpenCLIP.
class Pretrained : public Model {
 public:
  /// What a folder says of its model.
  struct Info {
    std::string architecture = {};  ///< `model_type`: "bert", "clip", …; "open_clip"
    std::string pooling = {};       ///< of texts, by the names of `token_pooling`, or "pooler" or "end of text"
    bool normalized = false;        ///< whether representations have length 1
    std::int64_t width = 0;         ///< of representations
    std::int64_t vocabulary = 0;    ///< token ids go from 0 to below it
    std::int64_t max_tokens = 0;    ///< of a text, special ones included; 0 where it encodes none
    std::int64_t image_size = 0;    ///< of each side; 0 where it encodes no images
    std::int64_t image_channels = 0;
    /// Images may be of any whole number of patches of this size instead; 0 where they may not.
    std::int64_t image_patch = 0;
    std::vector<std::string> labels = {};             ///< of the classes, where it classifies images
    bool lower_case = false;                          ///< texts are to be lower-cased before their tokenizer sees them
    std::map<std::string, std::string> prompts = {};  ///< by name, such as "query": what texts of a kind begin with
    std::optional<std::string> default_prompt = {};   ///< the name of the one that texts of no kind begin with
    std::string similarity = "cosine";                ///< or "dot", "euclidean", "manhattan"
    std::vector<std::string> notes = {};              ///< fields that have no effect here, a sentence each
  };

  /// That it was read from.
  const std::filesystem::path& folder() const;
  /// Those that have its tokenizer and how its images are prepared: mostly the same.
  const std::filesystem::path& tokenizer_folder() const;
  const std::filesystem::path& processor_folder() const;
  const Info& info() const;
  bool encodes_texts() const;
  bool encodes_images() const;
  bool classifies_images() const;
  /// [batch, width]: pooled, projected and normalised as the folder says. Throws ValueError where it encodes no texts,
  /// and as the model of its architecture.
  Variable encode(const TokenBatch& texts) const;
  /// [batch, width] of images [batch, channels, size, size]. Throws ValueError where it encodes none, and as above.
  Variable encode_images(const Variable& images) const;
  /// Logits [batch, labels] of them, by the folder's own head. Throws ValueError where it has none, and as above.
  Variable classify_images(const Variable& images) const;
  /// Logarithm of the factor that similarities are scaled by, where the folder has one.
  std::optional<Parameter> logit_scale() const;
  /// What is added to them then, where the folder has that, as for SigLIP's loss.
  std::optional<Parameter> logit_bias() const;

 private:
  friend Pretrained load_pretrained(const std::filesystem::path& folder, const PretrainedOptions& options);
  friend void save_pretrained(const std::filesystem::path& folder, const Pretrained& model);
  friend void save_lora(const std::filesystem::path& folder, const Lora& lora, const Pretrained& model);
  struct Parts;
  Pretrained(const Builder& builder, std::shared_ptr<const Parts> parts) : Model(builder), parts_(std::move(parts)) {}

  std::shared_ptr<const Parts> parts_;
};

/// Reads config.json, what sentence-transformers keeps beside it, and model.safetensors or its shards. The values of
/// the files become the parameters' as they are read, so that memory holds them once. Dropout is off until
/// `set_training(true)`, as after `from_pretrained`. Throws FileError that names, in one message, the fields that are
/// malformed or would change results and are not supported, and the tensors that are missing or do not fit;
/// DTypeError, OutOfMemory.
Pretrained load_pretrained(const std::filesystem::path& folder, const PretrainedOptions& options = {});

/// Writes a folder that transformers, sentence-transformers or OpenCLIP, whichever the model's own folder was of, load
/// again: the configuration as it was read, the weights under the names of those libraries, and tokenizer and
/// preprocessor files copied from the folder that the model came from, which must still be there. A new folder appears
/// whole under its name or not at all. In one that is there, files of the same names are replaced, and config.json is
/// missing for as long as they do not belong together. Throws FileError, and ValueError for a model that is adapted
/// (`add_lora`) and not merged, whose weights alone are another model.
void save_pretrained(const std::filesystem::path& folder, const Pretrained& model);

/// The folder of an adapter of a model, with the model's own folder for its base and, beside the adapter, what
/// sentence-transformers looks for there and nowhere else: the modules behind the transformer, prompts, tokenizer and
/// preprocessor. It appears as that of `save_pretrained`, and throws FileError as that does.
void save_lora(const std::filesystem::path& folder, const Lora& lora, const Pretrained& model);

}  // namespace tapecache::models
