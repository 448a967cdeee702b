#include <memory>

#include <fmt/format.h>

#include "tapecache/models/bert.h"
#include "tapecache/models/encoder_fields.h"
#include "tapecache/models/pretrained_parts.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/pooling.h"

namespace tapecache::models::detail {

namespace {

constexpr std::string_view kWords = "embeddings.word_embeddings.weight";

/// What the names of the encoder begin with in the files: "bert." where it was saved with a head beside it.
std::string prefix_in(const WeightFiles& files) {
  if (files.contains(kWords)) return "";
  for (const std::string& name : files.names()) {
    if (name.ends_with(kWords) && name[name.size() - kWords.size() - 1] == '.') {
      return name.substr(0, name.size() - kWords.size());
    }
  }
  return "";
}

BertConfig read_config(const FamilySource& source) {
  const ConfigFields& fields = source.config;
  BertConfig config;
  config.vocabulary = fields.size("vocab_size", 30522);
  config.max_tokens = fields.size("max_position_embeddings", 512);
  config.types = fields.size("type_vocab_size", 2);
  config.position_offset = 0;
  // What transformers takes for a field that is left out; MiniLM's sizes, the engine's own, are other ones.
  BertEncoderConfig encoder{.width = 768, .layers = 12, .mlp_width = 3072};
  encoder.dropout = source.options.dropout.value_or(fields.probability("hidden_dropout_prob", 0.1));
  config.encoder = BertEncoderConfig(read_encoder(fields, source, TransformerConfig(encoder)));
  fields.only("position_embedding_type", "absolute");
  fields.only("is_decoder", false);
  fields.only("add_cross_attention", false);
  fields.none("pruned_heads");
  fields.none("embedding_size");
  return config;
}

/// transformers' BertPooler.
struct Pooler {
  Linear dense;
  Variable operator()(const Variable& states, const Tensor& valid) const {
    return ops::tanh(dense(ops::cls_pool(states, valid)));
  }
};

}  // namespace

FamilyPlan plan_bert(const FamilySource& source) {
  const BertConfig config = read_config(source);
  FamilyPlan plan;
  plan.prefix = prefix_in(source.files);
  plan.saved_class = "BertModel";
  plan.info.width = config.encoder.width;
  plan.info.vocabulary = config.vocabulary;
  plan.info.max_tokens = config.max_tokens;
  note_attention_dropout(source.config, "attention_probs_dropout_prob", plan.info);
  const bool pools = source.options.pooler && !source.has_modules;
  if (pools) plan.info.pooling = "pooler";
  for (const char* name : {"pooler.dense.weight", "pooler.dense.bias"}) {
    if (!pools && source.files.contains(plan.prefix + name)) plan.kept.push_back(name);
  }
  plan.make = [config, pools](const Builder& builder) {
    const auto bert = std::make_shared<const Bert>(builder, config);
    FamilyModel model;
    if (pools) {
      const std::int64_t width = config.encoder.width;
      const Pooler pooler{Linear(builder.child("pooler.dense"), width, width, Init::normal(0.02))};
      model.texts = [bert, pooler](const TokenBatch& t) { return pooler(bert->hidden_states(t), t.valid); };
    } else {
      model.states = [bert](const TokenBatch& tokens) { return bert->hidden_states(tokens); };
    }
    return model;
  };
  return plan;
}

}  // namespace tapecache::models::detail
