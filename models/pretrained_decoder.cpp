#include <algorithm>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "tapecache/models/encoder_fields.h"
#include "tapecache/models/pretrained_gated.h"
#include "tapecache/models/rope_fields.h"

namespace tapecache::models::detail {

namespace {

/// Whether layers look at a window: none, all, or those of `layer_types`.
enum class Windows { kNone, kAll, kSome };

/// What the architectures differ in, of which the names and the blocks are the same: what transformers takes for a
/// field that is left out, and which of them there are.
struct Kind {
  const char* name;
  const char* saved_class;
  std::int64_t vocabulary, mlp_width, kv_heads, head_width, max_tokens;  // 0: as follows from others
  bool head_norms;
  bool has_biases;      // attention_bias says whether its linear maps have them
  bool has_mlp_biases;  // so does mlp_bias
  bool qkv_bias;        // where no field says
  Windows windows;
};

constexpr Kind kQwen3{.name = "qwen3",
                      .saved_class = "Qwen3Model",
                      .vocabulary = 151936,
                      .mlp_width = 22016,
                      .kv_heads = 32,
                      .head_width = 128,
                      .max_tokens = 32768,
                      .head_norms = true,
                      .has_biases = true,
                      .has_mlp_biases = false,
                      .qkv_bias = false,
                      .windows = Windows::kSome};
constexpr Kind kQwen2{.name = "qwen2",
                      .saved_class = "Qwen2Model",
                      .vocabulary = 151936,
                      .mlp_width = 22016,
                      .kv_heads = 32,
                      .head_width = 0,
                      .max_tokens = 32768,
                      .head_norms = false,
                      .has_biases = false,
                      .has_mlp_biases = false,
                      .qkv_bias = true,
                      .windows = Windows::kSome};
constexpr Kind kLlama{.name = "llama",
                      .saved_class = "LlamaModel",
                      .vocabulary = 32000,
                      .mlp_width = 11008,
                      .kv_heads = 0,
                      .head_width = 0,
                      .max_tokens = 2048,
                      .head_norms = false,
                      .has_biases = true,
                      .has_mlp_biases = true,
                      .qkv_bias = false,
                      .windows = Windows::kNone};
constexpr Kind kMistral{.name = "mistral",
                        .saved_class = "MistralModel",
                        .vocabulary = 32000,
                        .mlp_width = 14336,
                        .kv_heads = 8,
                        .head_width = 0,
                        .max_tokens = 131072,
                        .head_norms = false,
                        .has_biases = false,
                        .has_mlp_biases = false,
                        .qkv_bias = false,
                        .windows = Windows::kAll};

/// Whether a field that may be null, and then is derived from others, is so.
bool is_null(const JsonFields& fields, const char* name) { return fields.json().find(name) && !fields.has(name); }

void read_sizes(const JsonFields& fields, const Kind& kind, GatedBlockConfig& blocks) {
  blocks.width = fields.size("hidden_size", 4096);
  blocks.layers = fields.size("num_hidden_layers", 32);
  blocks.heads = fields.size("num_attention_heads", 32);
  blocks.mlp_width = fields.size("intermediate_size", kind.mlp_width);
  const bool as_heads = kind.kv_heads == 0 || is_null(fields, "num_key_value_heads");
  blocks.kv_heads = fields.size("num_key_value_heads", as_heads ? blocks.heads : kind.kv_heads);
  if (blocks.heads % blocks.kv_heads != 0) {
    fields.refuse_size("num_key_value_heads", fmt::format("a divisor of num_attention_heads, {}", blocks.heads));
  }
  const bool has_width = fields.has("head_dim") || (kind.head_width > 0 && !is_null(fields, "head_dim"));
  if (!has_width) check_heads(fields, blocks.width, blocks.heads);
  blocks.head_width = has_width ? fields.size("head_dim", kind.head_width) : blocks.width / blocks.heads;
  if (blocks.head_width % 2 != 0) fields.refuse_size("head_dim", "an even width");
}

/// How many tokens back each layer looks, itself among them; none where it looks at all.
std::vector<std::optional<std::int64_t>> read_windows(const JsonFields& fields, const Kind& kind, std::int64_t layers) {
  const auto count = static_cast<std::size_t>(layers);
  const auto window = [&](std::int64_t otherwise) -> std::optional<std::int64_t> {
    if (is_null(fields, "sliding_window")) return std::nullopt;
    return fields.size("sliding_window", otherwise) - 1;
  };
  if (kind.windows == Windows::kAll) return std::vector(count, window(4096));
  std::vector<std::optional<std::int64_t>> all(count);
  if (kind.windows == Windows::kNone) return all;
  const bool used = fields.flag("use_sliding_window", false);
  const std::int64_t first = fields.size("max_window_layers", 28, 0);
  const std::vector<bool> global = global_layers(
      fields, layers, [&](std::int64_t i) { return !used || is_null(fields, "sliding_window") || i < first; });
  for (std::size_t i = 0; i < count; ++i) {
    if (!global[i] && used) all[i] = window(4096);
  }
  if (!used && std::ranges::find(global, false) != global.end()) {
    fields.refuse("use_sliding_window", "true beside layer_types with sliding_attention");
  }
  return all;
}

GatedTextConfig read_config(const FamilySource& source, const Kind& kind) {
  const JsonFields& fields = source.config;
  GatedTextConfig config{.name = kind.name,
                         .words = "embed_tokens",
                         .final_norm = "norm",
                         .style = {.qkv = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"},
                                   .gate = {"mlp.gate_proj", "mlp.up_proj"},
                                   .norm1 = "input_layernorm",
                                   .out = "self_attn.o_proj",
                                   .norm2 = "post_attention_layernorm",
                                   .down = "mlp.down_proj",
                                   .norm = BlockNorm::Kind::kRootMeanSquare,
                                   .causal = fields.flag("is_causal", true)}};
  config.vocabulary = fields.size("vocab_size", kind.vocabulary);
  config.max_tokens = fields.size("max_position_embeddings", kind.max_tokens);
  GatedBlockConfig& blocks = config.blocks;
  read_sizes(fields, kind, blocks);
  blocks.activation = read_activation(fields, "hidden_act", Activation::kSilu);
  blocks.epsilon = fields.positive("rms_norm_eps", 1e-6);
  blocks.head_norms = kind.head_norms;
  const bool biased = kind.has_biases && fields.flag("attention_bias", false);
  blocks.qkv_bias = kind.qkv_bias || biased;
  blocks.out_bias = biased;
  blocks.mlp_bias = kind.has_mlp_biases && fields.flag("mlp_bias", false);
  blocks.attention_dropout = blocks.hidden_dropout = source.options.dropout.value_or(0);
  blocks.checkpoint = source.options.checkpoint;
  check_layers(fields, source, blocks.layers);
  if (!fields.problems().sizes_known()) return config;
  // Older files have the base beside the scaling.
  const JsonFields rope = fields.object(fields.has("rope_scaling") ? "rope_scaling" : "rope_parameters");
  if (fields.has("partial_rotary_factor")) fields.refuse("partial_rotary_factor", "none: it is not supported");
  const RopeTables angles = read_rope(rope, fields.positive("rope_theta", 10000), blocks.head_width, config.max_tokens);
  for (const auto& window : read_windows(fields, kind, blocks.layers)) {
    if (window && !config.style.causal) fields.refuse("is_causal", "true beside a sliding window");
    config.positions.push_back({angles, window});
  }
  return config;
}

FamilyPlan plan_kind(const FamilySource& source, const Kind& kind) {
  const GatedTextConfig config = read_config(source, kind);
  FamilyPlan plan = plan_of(source, config, kind.saved_class);
  const std::vector<std::string> classes = source.config.texts("architectures");
  if (config.style.causal && !classes.empty() && classes.front().ends_with("ForCausalLM")) {
    plan.pooling = TokenPooling::kLastToken;
  }
  return plan;
}

}  // namespace

FamilyPlan plan_qwen3(const FamilySource& source) { return plan_kind(source, kQwen3); }
FamilyPlan plan_qwen2(const FamilySource& source) { return plan_kind(source, kQwen2); }
FamilyPlan plan_llama(const FamilySource& source) { return plan_kind(source, kLlama); }
FamilyPlan plan_mistral(const FamilySource& source) { return plan_kind(source, kMistral); }

}  // namespace tapecache::models::detail
