#include <memory>

#include <fmt/format.h>

#include "tapecache/models/bert.h"
#include "tapecache/models/encoder_fields.h"
#include "tapecache/models/pretrained_parts.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/reduce.h"

namespace tapecache::models::detail {

namespace {

constexpr std::string_view kWords = "embeddings.word_embeddings.weight";

/// What the architectures differ in, of which the names and the blocks are the same.
struct Kind {
  const char* saved_class;
  std::int64_t vocabulary;        // where the file leaves it out
  bool positions_follow_padding;  // they are counted over the valid tokens, from the padding's id + 1
};

constexpr Kind kBert{"BertModel", 30522, false};
constexpr Kind kRoberta{"RobertaModel", 50265, true};
constexpr Kind kXlmRoberta{"XLMRobertaModel", 30522, true};

/// Positions of the tokens, which are fewer than the rows of their table where those of padding come first.
void read_positions(const JsonFields& fields, const Kind& kind, BertConfig& config) {
  const std::int64_t rows = fields.size("max_position_embeddings", 512);
  config.position_offset = kind.positions_follow_padding ? fields.size("pad_token_id", 1, 0) + 1 : 0;
  config.max_tokens = rows - *config.position_offset;
  if (config.max_tokens >= 1) return;
  fields.refuse_size("max_position_embeddings", fmt::format("more than pad_token_id + 1, {}", *config.position_offset));
  config.max_tokens = 1;
}

/// What all of them share.
BertEncoderConfig read_blocks(const FamilySource& source) {
  const JsonFields& fields = source.config;
  // What transformers takes for a field that is left out; MiniLM's sizes, the engine's own, are other ones.
  BertEncoderConfig encoder{.width = 768, .layers = 12, .mlp_width = 3072};
  encoder.dropout = source.options.dropout.value_or(fields.probability("hidden_dropout_prob", 0.1));
  fields.only_text("position_embedding_type", "absolute");
  fields.only_flag("is_decoder", false);
  fields.only_flag("add_cross_attention", false);
  fields.none("pruned_heads");
  fields.none("embedding_size");
  return BertEncoderConfig(read_encoder(fields, source, TransformerConfig(encoder)));
}

BertConfig read_config(const FamilySource& source, const Kind& kind) {
  const JsonFields& fields = source.config;
  BertConfig config;
  config.vocabulary = fields.size("vocab_size", kind.vocabulary);
  config.types = fields.size("type_vocab_size", 2);
  read_positions(fields, kind, config);
  config.encoder = read_blocks(source);
  return config;
}

/// transformers' BertPooler.
struct Pooler {
  Linear dense;
  Variable operator()(const Variable& states, const Tensor& valid) const {
    return ops::tanh(dense(ops::cls_pool(states, valid)));
  }
};

/// What an encoder's builder makes: each token's state.
using States = std::function<Variable(const TokenBatch&)>;

/// What follows from the config of any of them.
template <class Config>
FamilyPlan plan_of(const FamilySource& source, const char* saved_class, const Config& config,
                   const std::function<States(const Builder&)>& make_states) {
  FamilyPlan plan;
  plan.prefix = prefix_in(source.files, kWords);
  plan.saved_class = saved_class;
  plan.info.width = config.encoder.width;
  plan.info.vocabulary = config.vocabulary;
  plan.info.max_tokens = config.max_tokens;
  note_attention_dropout(source.config, "attention_probs_dropout_prob", plan.info);
  const bool has_pooler = source.options.pooler && !source.has_modules;
  plan.pools = !has_pooler;
  if (has_pooler) plan.info.pooling = "pooler";
  for (const char* name : {"pooler.dense.weight", "pooler.dense.bias"}) {
    if (!has_pooler && source.files.contains(plan.prefix + name)) plan.kept.push_back(name);
  }
  plan.make = [width = config.encoder.width, make_states, has_pooler](const Builder& builder) {
    FamilyModel model;
    model.states = make_states(builder);
    if (!has_pooler) return model;
    const Pooler pooler{Linear(builder.child("pooler.dense"), width, width, Init::normal(0.02))};
    model.texts = [states = model.states, pooler](const TokenBatch& t) { return pooler(states(t), t.valid); };
    return model;
  };
  return plan;
}

/// Of Bert or Mpnet.
template <class Encoder, class Config>
std::function<States(const Builder&)> states_of(const Config& config) {
  return [config](const Builder& builder) -> States {
    const auto encoder = std::make_shared<const Encoder>(builder, config);
    return [encoder](const TokenBatch& tokens) { return encoder->hidden_states(tokens); };
  };
}

FamilyPlan plan_kind(const FamilySource& source, const Kind& kind) {
  const BertConfig config = read_config(source, kind);
  return plan_of(source, kind.saved_class, config, states_of<Bert>(config));
}

}  // namespace

FamilyPlan plan_bert(const FamilySource& source) { return plan_kind(source, kBert); }
FamilyPlan plan_roberta(const FamilySource& source) { return plan_kind(source, kRoberta); }
FamilyPlan plan_xlm_roberta(const FamilySource& source) { return plan_kind(source, kXlmRoberta); }

FamilyPlan plan_mpnet(const FamilySource& source) {
  const JsonFields& fields = source.config;
  constexpr std::int64_t kBuckets = 32;
  MpnetConfig config;
  config.vocabulary = fields.size("vocab_size", config.vocabulary);
  // Of the padding's id, 1 whatever pad_token_id says, and 0.
  config.max_tokens = fields.size("max_position_embeddings", 512, config.position_offset + 1) - config.position_offset;
  if (fields.size("relative_attention_num_buckets", kBuckets) != kBuckets) {
    fields.refuse_size("relative_attention_num_buckets", "32, which alone is supported");
  }
  config.encoder = read_blocks(source);
  return plan_of(source, "MPNetModel", config, states_of<Mpnet>(config));
}

}  // namespace tapecache::models::detail
