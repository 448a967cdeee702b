#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "tapecache/models/builder.h"

namespace tapecache::models {

struct LoraOptions {
  std::int64_t rank = 8;
  double alpha = 8;    ///< what is added is scaled by alpha / rank
  double dropout = 0;  ///< of what A takes, in training
  /// Which linear layers: names, or the last parts of names ("query", "attention.output.dense"); regular expressions,
  /// as which counts what has other characters than names have, of whole names; or "all-linear". The projections of the
  /// attention that SigLIP pools by are none of them.
  std::vector<std::string> targets = {"all-linear"};
  bool rank_stabilized = false;  ///< scaled by alpha / √rank (Kalajdzievski 2023)
};

/// Low-rank adaptation (Hu et al. 2021, "LoRA") of some linear layers of a model: of W x they make
/// W x + alpha / rank · B A x, where A [rank, in] and B [out, rank] are parameters of the model, `lora_A.weight` and
/// `lora_B.weight` under the layer's name. A handle; copies are the same adaptation.
class Lora {
 public:
  /// Names of the adapted layers, and their A and B in that order.
  std::vector<std::string> layers() const;
  std::vector<Parameter> parameters() const;

  /// Adds alpha / rank · B A to the weights, so that a forward costs what it did without; A and B take no part while
  /// they are merged. Keeps a copy of the weights. Throws OutOfMemory, and then nothing is changed.
  void merge() const;
  /// Gives the weights back, to the bit.
  void unmerge() const;
  bool merged() const;

  /// Whether a folder is an adapter's.
  static bool is_in(const std::filesystem::path& folder);
  /// What a folder's adapter_config.json calls the model it adapts; empty where that is not said. Throws FileError.
  static std::string base_of(const std::filesystem::path& folder);

 private:
  friend Lora add_lora(const Model& model, const LoraOptions& options);
  friend Lora load_lora(const std::filesystem::path& folder, const Model& model);
  friend void save_lora(const std::filesystem::path& folder, const Lora& lora, const std::string& base);
  struct Parts;
  explicit Lora(std::shared_ptr<const Parts> parts) : parts_(std::move(parts)) {}

  std::shared_ptr<const Parts> parts_;
};

/// Adapts a model, whose parameters so far are frozen. A is drawn as PyTorch's Linear draws its weight, from the seed
/// of the model's builder, and B is 0, so that at first the model is as it was. Of a folder's model all layers but
/// those of modules behind the transformer can be adapted. Throws ValueError for options out of range, a target that no
/// layer answers to, and a layer that is adapted already.
Lora add_lora(const Model& model, const LoraOptions& options = {});

/// Writes adapter_config.json and adapter_model.safetensors as PEFT does, the former with the base model's name or path
/// where `base` gives one. Throws FileError.
void save_lora(const std::filesystem::path& folder, const Lora& lora, const std::string& base = "");

/// Adapts a model as such a folder says, which PEFT may have written; the rest as `add_lora`. Throws FileError that
/// names, in one message, the fields that are malformed or not supported, the layers that the model has not, and the
/// tensors that are missing or of another shape, as where the adapter is another model's.
Lora load_lora(const std::filesystem::path& folder, const Model& model);

}  // namespace tapecache::models
