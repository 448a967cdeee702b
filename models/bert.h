#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "tapecache/models/builder.h"
#include "tapecache/models/token_batch.h"
#include "tapecache/models/transformer_block.h"

namespace tapecache::models {

struct BertConfig {
  enum class Pooling { kMean, kCls };

  std::int64_t vocabulary = 30522;
  std::int64_t max_tokens = 512;
  std::int64_t types = 2;  ///< kinds of segment that TokenBatch::types may tell
  /// Rows of the position table before that of the first token: 0 for BERT, 2 for RoBERTa and XLM-R, whose 514 rows are
  /// 512 tokens and which count positions over the valid tokens alone. Must be given where there is one type, as in
  /// RoBERTa's files, which else would load into a BERT of 514 tokens.
  std::optional<std::int64_t> position_offset = {};
  Pooling pooling = Pooling::kMean;
  BertEncoderConfig encoder = {};  ///< `drop_path` and `checkpoint` are as in the pre-norm block

  /// Returns the config. Throws ValueError for sizes below 1, an offset below 0 or one that must be given, and as that
  /// of the encoder.
  const BertConfig& checked() const;
};

/// BERT's encoder (Devlin et al. 2019), giving one vector for each text or pair of texts, as for sentence embeddings.
/// Parameters are named as in a Hugging Face checkpoint of `BertModel` (`embeddings.…`, `encoder.layer.0.…`); its
/// pooler is not used.
class Bert : public Model {
 public:
  /// Throws as the config's `checked`, before the first parameter is made.
  Bert(const BertConfig& config, std::uint64_t seed, DType dtype = DType::kFloat32)
      : Bert(Builder(seed, dtype), config) {}
  /// The same under the name of a builder, whose list other parts may share.
  Bert(const Builder& builder, const BertConfig& config);
  /// [batch, width]: the mean over the valid tokens, or the first of them. Throws as `TokenBatch::check`, and
  /// ValueError for a type that there is not.
  Variable operator()(const TokenBatch& tokens) const;
  /// [batch, tokens, width]: each token's state after the last block, not pooled. Throws as above.
  Variable hidden_states(const TokenBatch& tokens) const;

 private:
  Variable embed(const TokenBatch& tokens) const;

  BertConfig config_;
  Embedding words_, positions_, types_;
  LayerNorm norm_;
  Dropout dropout_;
  TransformerEncoder encoder_;
};

struct MpnetConfig {
  std::int64_t vocabulary = 30527;
  std::int64_t max_tokens = 512;
  std::int64_t position_offset = 2;  ///< rows of the position table before that of the first token
  BertEncoderConfig encoder = {.width = 768, .layers = 12, .mlp_width = 3072};

  /// Returns the config. Throws ValueError for sizes below 1, an offset below 0, and as that of the encoder.
  const MpnetConfig& checked() const;
};

/// MPNet's encoder (Song et al. 2020): BERT's blocks, with one bias of scores by distance and head that they share, and
/// no types. Parameters are named as in a Hugging Face checkpoint of `MPNetModel`; its pooler is not used.
class Mpnet : public Model {
 public:
  /// Throws as the config's `checked`, before the first parameter is made.
  Mpnet(const MpnetConfig& config, std::uint64_t seed, DType dtype = DType::kFloat32)
      : Mpnet(Builder(seed, dtype), config) {}
  /// The same under the name of a builder, whose list other parts may share.
  Mpnet(const Builder& builder, const MpnetConfig& config);
  /// [batch, tokens, width]: each token's state after the last block, not pooled. Throws as `TokenBatch::check`.
  Variable hidden_states(const TokenBatch& tokens) const;

  /// Which of 32 learned numbers the score of a key gets, by its distance from the query (Raffel et al. 2020): one each
  /// for keys after and before it, of 8 distances, and of ever longer ranges up to 128 and beyond.
  static std::int64_t relative_bucket(std::int64_t key_minus_query);

 private:
  Variable embed(const TokenBatch& tokens) const;
  Variable score_bias(std::int64_t tokens) const;

  MpnetConfig config_;
  Embedding words_, positions_;
  LayerNorm norm_;
  Dropout dropout_;
  TransformerEncoder encoder_;
  Embedding distances_;
};

}  // namespace tapecache::models
