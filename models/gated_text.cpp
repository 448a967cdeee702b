#include "tapecache/models/gated_text.h"

#include <string_view>

namespace tapecache::models::detail {

GatedText::GatedText(const Builder& builder, const GatedTextConfig& config)
    : config_(config),
      words_(builder.child(config.words), config.vocabulary, config.blocks.width, Init::normal(0.02)),
      dropout_(builder, config.embedding_dropout),
      encoder_(builder, config.blocks, config.style, config.positions, config.final_norm) {
  words_.weight.set("pooling", "mean");
  if (std::string_view(config.words_norm).empty()) return;
  words_norm_.emplace(builder.child(config.words_norm), config.blocks.width, config.blocks.epsilon, config.style.norm);
}

Variable GatedText::hidden_states(const TokenBatch& tokens) const {
  tokens.check(config_.name, config_.max_tokens, config_.vocabulary);
  const Variable x = words_(tokens.ids);
  return encoder_(dropout_(words_norm_ ? (*words_norm_)(x) : x), tokens.valid);
}

}  // namespace tapecache::models::detail
