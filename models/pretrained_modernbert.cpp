#include <vector>

#include <fmt/format.h>

#include "tapecache/models/encoder_fields.h"
#include "tapecache/models/pretrained_gated.h"
#include "tapecache/models/rope_fields.h"

namespace tapecache::models::detail {

namespace {

/// The angles of one kind of layers: of an object of its own, or, in older files, by the base alone.
RopeTables rope_of(const JsonFields& fields, const char* kind, double base, std::int64_t head_width,
                   std::int64_t max_tokens) {
  return read_rope(fields.object("rope_parameters").object(kind), base, head_width, max_tokens);
}

std::vector<BlockPositions> read_positions(const JsonFields& fields, std::int64_t layers, std::int64_t head_width,
                                           std::int64_t max_tokens) {
  const double global_base = fields.positive("global_rope_theta", 160000);
  // Where it is null, versions before 5 take the other.
  const bool is_null = fields.json().find("local_rope_theta") && !fields.has("local_rope_theta");
  const double local_base = fields.positive("local_rope_theta", is_null ? global_base : 10000);
  fields.none("rope_scaling");
  const BlockPositions global{rope_of(fields, "full_attention", global_base, head_width, max_tokens)};
  const BlockPositions local{rope_of(fields, "sliding_attention", local_base, head_width, max_tokens),
                             fields.size("local_attention", 128) / 2};
  std::vector<BlockPositions> all;
  const std::int64_t every = fields.size("global_attn_every_n_layers", 3);
  for (const bool is_global : global_layers(fields, layers, [&](std::int64_t i) { return i % every == 0; })) {
    all.push_back(is_global ? global : local);
  }
  return all;
}

GatedTextConfig read_config(const FamilySource& source) {
  const JsonFields& fields = source.config;
  GatedTextConfig config{.name = "modernbert",
                         .words = "embeddings.tok_embeddings",
                         .words_norm = "embeddings.norm",
                         .final_norm = "final_norm",
                         .style = {.qkv = {"attn.Wqkv"},
                                   .gate = {"mlp.Wi"},
                                   .norm1 = "attn_norm",
                                   .out = "attn.Wo",
                                   .norm2 = "mlp_norm",
                                   .down = "mlp.Wo",
                                   .first_norm = false}};
  config.vocabulary = fields.size("vocab_size", 50368);
  config.max_tokens = fields.size("max_position_embeddings", 8192);
  const auto dropout = [&](const char* field) { return source.options.dropout.value_or(fields.probability(field, 0)); };
  config.embedding_dropout = dropout("embedding_dropout");
  if (fields.flag("norm_bias", false)) config.style.norm = BlockNorm::Kind::kLayerWithBias;
  GatedBlockConfig& blocks = config.blocks;
  blocks.width = fields.size("hidden_size", 768);
  blocks.layers = fields.size("num_hidden_layers", 22);
  blocks.heads = blocks.kv_heads = fields.size("num_attention_heads", 12);
  blocks.mlp_width = fields.size("intermediate_size", 1152);
  blocks.activation = read_activation(fields, "hidden_activation", Activation::kGelu);
  blocks.epsilon = fields.positive("norm_eps", 1e-5);
  blocks.qkv_bias = blocks.out_bias = fields.flag("attention_bias", false);
  blocks.mlp_bias = fields.flag("mlp_bias", false);
  blocks.attention_dropout = dropout("attention_dropout");
  blocks.hidden_dropout = dropout("mlp_dropout");
  blocks.checkpoint = source.options.checkpoint;
  check_heads(fields, blocks.width, blocks.heads);
  check_layers(fields, source, blocks.layers);
  if (!fields.problems().sizes_known()) return config;
  blocks.head_width = blocks.width / blocks.heads;
  if (blocks.head_width % 2 != 0) {
    fields.refuse_size("num_attention_heads", fmt::format("heads of an even width, of hidden_size {}", blocks.width));
    return config;
  }
  config.positions = read_positions(fields, blocks.layers, blocks.head_width, config.max_tokens);
  return config;
}

}  // namespace

FamilyPlan plan_modernbert(const FamilySource& source) {
  return plan_of(source, read_config(source), "ModernBertModel");
}

}  // namespace tapecache::models::detail
