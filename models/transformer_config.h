#pragma once

#include <concepts>
#include <cstdint>

#include "tapecache/ops/linear.h"

namespace tapecache::models {

/// A stack of transformer blocks. What an initialiser leaves out is as the architecture has it, whichever members it
/// names; so each architecture has a type of its own, and one becomes another by an explicit conversion alone.
template <class Architecture>
struct TransformerConfigOf {
  std::int64_t width = Architecture::kWidth;
  std::int64_t layers =
      Architecture::kLayers;  ///< of the whole stack; sets the scale of residual projections in CLIP's blocks
  std::int64_t heads = Architecture::kHeads;
  std::int64_t mlp_width = Architecture::kMlpWidth;
  ops::Activation activation = Architecture::kActivation;
  double dropout = 0;  ///< of both residual branches
  /// Of both residual branches, for each sample as a whole, after dropout (stochastic depth, Huang et al. 2016). The
  /// same in every block: for a rate that grows with depth give each block a config of its own.
  double drop_path = 0;
  double epsilon = Architecture::kEpsilon;  ///< of the layer norms
  bool checkpoint = false;                  ///< keep only each block's input and compute the block again in backward

  /// Every member as it is here.
  template <class Other>
  requires(!std::same_as<Other, Architecture>) explicit operator TransformerConfigOf<Other>() const {
    return {width, layers, heads, mlp_width, activation, dropout, drop_path, epsilon, checkpoint};
  }
};

struct ClipTextArchitecture {
  static constexpr std::int64_t kWidth = 512, kLayers = 12, kHeads = 8, kMlpWidth = 2048;
  static constexpr ops::Activation kActivation = ops::Activation::kQuickGelu;
  static constexpr double kEpsilon = 1e-5;
};

struct ClipVisionArchitecture : ClipTextArchitecture {
  static constexpr std::int64_t kWidth = 768, kHeads = 12, kMlpWidth = 3072;
};

/// MiniLM-L6 (Wang et al. 2020).
struct BertArchitecture {
  static constexpr std::int64_t kWidth = 384, kLayers = 6, kHeads = 12, kMlpWidth = 1536;
  static constexpr ops::Activation kActivation = ops::Activation::kGelu;
  static constexpr double kEpsilon = 1e-12;
};

/// Of pre-norm blocks.
using TransformerConfig = TransformerConfigOf<ClipTextArchitecture>;
using VisionEncoderConfig = TransformerConfigOf<ClipVisionArchitecture>;
using BertEncoderConfig = TransformerConfigOf<BertArchitecture>;

namespace detail {
void check_transformer(const char* model, const TransformerConfig& config);
}

/// Throws ValueError, in the name of `model`, for sizes below 1, heads that do not divide the width, a `dropout` or
/// `drop_path` outside [0, 1) and an `epsilon` that is not above 0 and finite; gives the config back.
template <class Architecture>
const TransformerConfigOf<Architecture>& check_config(const char* model,
                                                      const TransformerConfigOf<Architecture>& config) {
  detail::check_transformer(model, TransformerConfig(config));
  return config;
}

}  // namespace tapecache::models
