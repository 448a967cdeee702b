#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "evaluation.h"
#include "exit_code.h"
#include "tapecache/core/dtype.h"
#include "text_model.h"

namespace tapecache::program {

/// What every command that runs a model is told.
struct ModelOptions {
  std::filesystem::path folder = {};
  std::filesystem::path base = {};  ///< of an adapter's folder; empty: what its adapter_config.json says
  std::optional<std::int64_t> max_tokens = {};
  std::int64_t batch_tokens = 8192;
  bool bf16 = false;
  ImageOptions images = {};

  DType autocast() const { return bf16 ? DType::kBFloat16 : DType::kFloat32; }
  /// Distance of the cached from the direct gradient, over its norm, up to which they count as equal.
  double gradient_tolerance() const { return bf16 ? 1e-2 : 1e-4; }
  /// Of the model as it is used, not trained.
  TextModelOptions text_model() const { return {.max_tokens = max_tokens, .base = base}; }
  EmbedOptions embed() const { return {.batch_tokens = batch_tokens, .autocast = autocast()}; }
};

/// In the place of the model's own prompts.
struct PrefixOptions {
  std::optional<std::string> query = {}, passage = {};

  Prefixes of(const TextModel& model) const { return prefixes_for(model, query, passage); }
};

}  // namespace tapecache::program
