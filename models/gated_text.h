#pragma once

#include <cstdint>
#include <vector>

#include "tapecache/models/gated_block.h"
#include "tapecache/models/token_batch.h"

#pragma GCC visibility push(hidden)

namespace tapecache::models::detail {

struct GatedTextConfig {
  const char* name = "";  ///< for messages
  std::int64_t vocabulary = 0, max_tokens = 0;
  const char* words = "";       ///< the name of the table of token embeddings
  const char* words_norm = "";  ///< that of the norm of what is looked up; empty: none
  const char* final_norm = "";
  double embedding_dropout = 0;
  GatedBlockStyle style = {};
  GatedBlockConfig blocks = {};
  std::vector<BlockPositions> positions = {};  ///< of each block
};

/// A text model whose only positions are rotary ones: ModernBERT, Qwen, Llama.
class GatedText {
 public:
  GatedText(const Builder& builder, const GatedTextConfig& config);
  /// [batch, tokens, width]: each token's state. Throws as `TokenBatch::check`.
  Variable hidden_states(const TokenBatch& tokens) const;

 private:
  GatedTextConfig config_;
  Embedding words_;
  std::optional<BlockNorm> words_norm_;
  Dropout dropout_;
  GatedEncoder encoder_;
};

}  // namespace tapecache::models::detail

#pragma GCC visibility pop
