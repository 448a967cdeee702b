#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tapecache/models/model.h"
#include "tapecache/models/token_batch.h"
#include "tapecache/models/token_pooling.h"

namespace tapecache::models {

struct PretrainedOptions {
  DType dtype = DType::kFloat32;  ///< of the parameters, f32 or f64, whatever the files have
  /// Values that are stored in that type are views of the files, as LoadOptions::memory_map says, with its danger.
  bool memory_map = false;
  /// Where a folder of the BERT family has no modules.json: how a text's tokens become its representation, and whether
  /// that is then of length 1. The mean, as sentence-transformers takes such a folder.
  TokenPooling pooling = TokenPooling::kMean;
  bool normalize = false;
  /// There, in their place: the pooler's output, tanh(W x + b) of the first token, as `pooler_output` in transformers.
  bool pooler = false;
  std::optional<double> dropout = {};  ///< in the place of config.json's
  bool checkpoint = false;             ///< keep only each block's input and compute the block again in backward
  std::uint64_t seed = 0;              ///< of parameters that are made under its builder later
};

/// What a folder says of its model.
struct PretrainedInfo {
  std::string architecture = {};  ///< `model_type`: "bert", "clip", …; "open_clip"
  std::string pooling = {};       ///< of texts, by the names of `token_pooling`, or "pooler" or "end of text"
  bool normalized = false;        ///< whether representations have length 1
  std::int64_t width = 0;         ///< of representations
  std::int64_t vocabulary = 0;    ///< token ids go from 0 to below it
  std::int64_t max_tokens = 0;    ///< of a text, special ones included; 0 where it encodes none
  std::int64_t image_size = 0;    ///< of each side; 0 where it encodes no images
  std::int64_t image_channels = 0;
  bool lower_case = false;                          ///< texts are to be lower-cased before their tokenizer sees them
  std::map<std::string, std::string> prompts = {};  ///< by name, such as "query": what texts of a kind begin with
  std::optional<std::string> default_prompt = {};   ///< the name of the one that texts of no kind begin with
  std::string similarity = "cosine";                ///< or "dot", "euclidean", "manhattan"
  std::vector<std::string> notes = {};              ///< fields that have no effect here, a sentence each
};

/// The model of a folder in the layout of transformers, sentence-transformers or OpenCLIP.
class Pretrained : public Model {
 public:
  /// That it was read from.
  const std::filesystem::path& folder() const;
  const PretrainedInfo& info() const;
  bool encodes_texts() const;
  bool encodes_images() const;
  /// [batch, width]: pooled, projected and normalised as the folder says. Throws ValueError where it encodes no texts,
  /// and as the model of its architecture.
  Variable encode(const TokenBatch& texts) const;
  /// [batch, width] of images [batch, channels, size, size]. Throws ValueError where it encodes none, and as above.
  Variable encode_images(const Variable& images) const;
  /// Logarithm of the factor that similarities are scaled by, where the folder has one.
  std::optional<Parameter> logit_scale() const;

 private:
  friend Pretrained load_pretrained(const std::filesystem::path& folder, const PretrainedOptions& options);
  friend void save_pretrained(const std::filesystem::path& folder, const Pretrained& model);
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

}  // namespace tapecache::models
