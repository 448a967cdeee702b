#include <algorithm>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "compare.h"
#include "folder.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/models/bert.h"
#include "tapecache/models/layers.h"
#include "tapecache/models/lora.h"
#include "tapecache/models/pretrained.h"
#include "target_parts.h"

namespace tapecache::testing {

namespace {

// The files of a model's folder, one after another, each after a line with its name: "=== 1_Pooling/config.json". Those
// that are not there are as in a folder that is right; the weights, of a few numbers, are.
constexpr std::string_view kFolderFiles[] = {"config.json",
                                             "modules.json",
                                             "1_Pooling/config.json",
                                             "2_Dense/config.json",
                                             "sentence_bert_config.json",
                                             "config_sentence_transformers.json",
                                             "model.safetensors.index.json",
                                             "open_clip_config.json",
                                             "tokenizer_config.json"};

constexpr std::string_view kBertConfig =
    R"({"model_type": "bert", "vocab_size": 8, "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2,
"intermediate_size": 4, "max_position_embeddings": 4, "hidden_act": "gelu", "layer_norm_eps": 1e-12}
)";
constexpr std::string_view kModernBertConfig =
    R"({"model_type": "modernbert", "vocab_size": 8, "hidden_size": 4, "num_hidden_layers": 2, "num_attention_heads": 2,
"intermediate_size": 4, "max_position_embeddings": 4, "local_attention": 2, "norm_eps": 1e-5, "layer_types":
["full_attention", "sliding_attention"], "rope_parameters": {"full_attention": {"rope_theta": 160000.0}}}
)";
constexpr std::string_view kQwenConfig =
    R"({"model_type": "qwen3", "vocab_size": 8, "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2,
"num_key_value_heads": 1, "head_dim": 4, "intermediate_size": 4, "max_position_embeddings": 4, "use_sliding_window": true,
"sliding_window": 2, "max_window_layers": 0, "rope_theta": 1e6, "rope_scaling": {"type": "linear", "factor": 2.0}}
)";
constexpr std::string_view kModules =
    R"([{"path": "", "type": "sentence_transformers.models.Transformer"},
{"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
{"path": "2_Dense", "type": "sentence_transformers.models.Dense"},
{"path": "3_Normalize", "type": "sentence_transformers.models.Normalize"}]
)";
constexpr std::string_view kPooling = R"({"word_embedding_dimension": 4, "pooling_mode_mean_tokens": true}
)";
constexpr std::string_view kDense =
    R"({"in_features": 4, "out_features": 3, "activation_function": "torch.nn.modules.activation.Tanh"}
)";

const std::filesystem::path kCases = std::filesystem::path(TAPECACHE_REFERENCE) / "cases";

/// By `model_type`, of folders with images whose references the library is tested by.
constexpr std::pair<std::string_view, std::string_view> kFamilies[] = {{"clip", "clip"},
                                                                       {"siglip", "siglip"},
                                                                       {"vit", "vit_classes"},
                                                                       {"dinov2", "dinov2"},
                                                                       {"dinov2_with_registers", "dinov2_registers"}};

std::filesystem::path case_of(std::string_view name) { return kCases / std::string(name) / "model.safetensors"; }

/// A folder of weights for every way that a model is read; the same one for all inputs, which name the other files.
class ModelFolder {
 public:
  ModelFolder() {
    std::filesystem::create_directories(folder_ / "1_Pooling");
    std::filesystem::create_directories(folder_ / "2_Dense");
    const models::Bert bert(
        {.vocabulary = 8, .max_tokens = 4, .encoder = {.width = 4, .layers = 1, .heads = 2, .mlp_width = 4}}, 1);
    models::save_weights(folder_ / "weights", bert.builder());
    const models::Builder builder(2);
    const models::Linear dense(builder.child("linear"), 4, 3, models::Init::normal(1));
    models::save_weights(folder_ / "2_Dense/model.safetensors", builder);
    save(folder_ / "weights.modernbert", {{"embeddings.tok_embeddings", {8, 4}},
                                          {"embeddings.norm", {4}},
                                          {"layers.0.attn.Wqkv", {12, 4}},
                                          {"layers.0.attn.Wo", {4, 4}},
                                          {"layers.0.mlp_norm", {4}},
                                          {"layers.0.mlp.Wi", {8, 4}},
                                          {"layers.0.mlp.Wo", {4, 4}},
                                          {"layers.1.attn_norm", {4}},
                                          {"layers.1.attn.Wqkv", {12, 4}},
                                          {"layers.1.attn.Wo", {4, 4}},
                                          {"layers.1.mlp_norm", {4}},
                                          {"layers.1.mlp.Wi", {8, 4}},
                                          {"layers.1.mlp.Wo", {4, 4}},
                                          {"final_norm", {4}}});
    save(folder_ / "weights.qwen3", {{"embed_tokens", {8, 4}},
                                     {"layers.0.input_layernorm", {4}},
                                     {"layers.0.self_attn.q_proj", {8, 4}},
                                     {"layers.0.self_attn.k_proj", {4, 4}},
                                     {"layers.0.self_attn.v_proj", {4, 4}},
                                     {"layers.0.self_attn.o_proj", {4, 8}},
                                     {"layers.0.self_attn.q_norm", {4}},
                                     {"layers.0.self_attn.k_norm", {4}},
                                     {"layers.0.post_attention_layernorm", {4}},
                                     {"layers.0.mlp.gate_proj", {4, 4}},
                                     {"layers.0.mlp.up_proj", {4, 4}},
                                     {"layers.0.mlp.down_proj", {4, 4}},
                                     {"norm", {4}}});
  }

  const std::filesystem::path& fill(std::string_view bytes) {
    for (const std::string_view file : kFolderFiles) std::filesystem::remove(folder_ / std::string(file));
    std::filesystem::remove(folder_ / "model.safetensors");
    put(folder_ / "config.json", kBertConfig);
    put(folder_ / "1_Pooling/config.json", kPooling);
    put(folder_ / "2_Dense/config.json", kDense);
    for_each_file(bytes, [&](std::string_view file, std::string_view inside) {
      if (std::ranges::find(kFolderFiles, file) == std::end(kFolderFiles)) return;
      put(folder_ / std::string(file), inside);
      if (file == "open_clip_config.json") std::filesystem::remove(folder_ / "config.json");
    });
    const bool has_index = std::filesystem::exists(folder_ / "model.safetensors.index.json");
    std::filesystem::copy(weights(), folder_ / (has_index ? "shard.safetensors" : "model.safetensors"),
                          std::filesystem::copy_options::overwrite_existing);
    return folder_.path();
  }

 private:
  /// Of the family that the configuration most likely is of.
  std::filesystem::path weights() const {
    if (!std::filesystem::exists(folder_ / "config.json")) return kCases / "open_clip" / "open_clip_model.safetensors";
    const std::string config = contents(folder_ / "config.json");
    for (const char* const family : {"modernbert", "qwen3"}) {
      if (config.find(family) != std::string::npos) return folder_ / fmt::format("weights.{}", family);
    }
    for (const auto& [family, name] : kFamilies) {
      if (config.find(fmt::format("\"model_type\": \"{}\"", family)) != std::string::npos) return case_of(name);
    }
    return folder_ / "weights";
  }

  static void save(const std::filesystem::path& path, const std::vector<std::pair<std::string, Shape>>& weights) {
    const models::Builder builder(3);
    for (const auto& [name, shape] : weights) builder.parameter(name + ".weight", shape, models::Init::normal(1));
    models::save_weights(path, builder);
  }

  Folder folder_;
};

/// Representations of two texts and of an image; undefined where the model has none of them.
std::vector<Tensor> encoded(const models::Pretrained& model) {
  const models::TokenBatch texts{Tensor::from({1, 2, 3, 4}, {2, 2})};
  const std::int64_t side = model.info().image_size;
  std::vector<Tensor> found(2);
  if (model.encodes_texts()) {
    try {
      found[0] = model.encode(texts).value();
    } catch (const ValueError&) {
      require(model.encodes_images(), "a model of texts alone refuses texts");  // CLIP wants the end of a text
    }
  }
  if (model.encodes_images() && side <= 64) {
    found[1] = model.encode_images(Variable(Tensor::full({1, 3, side, side}, 0.5))).value();
  }
  return found;
}

/// What is taken can be used, saved, and loaded to the same bits.
void load_any_folder(std::string_view bytes) {
  static ModelFolder folder;
  std::optional<models::Pretrained> model;
  const std::filesystem::path& path = folder.fill(bytes);
  if (!takes([&] { model = models::load_pretrained(path); })) return;
  const NoRecording off;
  const Folder saved;
  models::save_pretrained(saved / "model", *model);
  const models::Pretrained again = models::load_pretrained(saved / "model");
  const std::vector<Tensor> before = encoded(*model), after = encoded(again);
  for (std::size_t i = 0; i < before.size(); ++i) {
    require(before[i].defined() == after[i].defined() && (!before[i].defined() || same_bits(before[i], after[i])),
            "a saved model encodes otherwise than the one that it was saved of");
  }
}

std::vector<std::string> folder_seeds() {
  const std::string all = fmt::format("=== config.json\n{}=== modules.json\n{}=== 1_Pooling/config.json\n{}",
                                      kBertConfig, kModules, kPooling);
  std::vector<std::string> seeds = {
      fmt::format("=== config.json\n{}", kBertConfig),
      fmt::format("=== config.json\n{}", kModernBertConfig),
      fmt::format("=== config.json\n{}", kQwenConfig),
      all,
      fmt::format("{}=== 2_Dense/config.json\n{}", all, kDense),
      all +
          "=== sentence_bert_config.json\n{\"max_seq_length\": 3, \"do_lower_case\": true}\n"
          "=== config_sentence_transformers.json\n{\"prompts\": {\"query\": \"q: \"}, \"similarity_fn_name\": "
          "\"dot\"}\n",
      "=== model.safetensors.index.json\n{\"weight_map\": {\"embeddings.LayerNorm.bias\": \"shard.safetensors\"}}\n",
      "=== open_clip_config.json\n{\"model_cfg\": {\"embed_dim\": 4, \"quick_gelu\": true, \"vision_cfg\": {\"width\": "
      "4},"
      " \"text_cfg\": {\"heads\": 2}}}\n",
      "=== config.json\n{\"model_type\": \"siglip\", \"text_config\": {\"vocab_size\": 8, \"pad_token_id\": 1}, "
      "\"vision_config\": {\"image_size\": 10, \"patch_size\": 4}}\n=== tokenizer_config.json\n"
      "{\"pad_token\": {\"content\": \"<pad>\"}, \"added_tokens_decoder\": {\"0\": {\"content\": \"<pad>\"}}}\n",
      "=== config.json\n{\"model_type\": \"vit\", \"hidden_size\": 4, \"num_attention_heads\": 2, \"image_size\": 4, "
      "\"patch_size\": 2, \"pooler_act\": \"tanh\"}\n",
      "=== config.json\n{\"model_type\": \"dinov2_with_registers\", \"hidden_size\": 4, \"num_attention_heads\": 2, "
      "\"mlp_ratio\": 2, \"use_swiglu_ffn\": true, \"id2label\": {\"0\": \"cat\"}}\n",
      "=== modules.json\n[{\"path\": \"\", \"type\": \"sentence_transformers.models.CLIPModel\"}]\n"};
  for (const auto& [family, name] : kFamilies) {
    seeds.push_back("=== config.json\n" + contents(kCases / std::string(name) / "config.json"));
  }
  seeds.push_back("=== open_clip_config.json\n" + contents(kCases / "open_clip" / "open_clip_config.json"));
  return seeds;
}

models::BertConfig adapted_config() {
  return {.vocabulary = 5, .max_tokens = 4, .encoder = {.width = 4, .layers = 1, .heads = 2, .mlp_width = 4}};
}

/// An adapter_config.json, a NUL and an adapter_model.safetensors. What is taken can be saved, and loaded to the same
/// bits.
void load_any_adapter(std::string_view bytes) {
  static const Folder folder;
  const std::size_t end = std::min(bytes.find('\0'), bytes.size());
  put(folder / "adapter_config.json", bytes.substr(0, end));
  put(folder / "adapter_model.safetensors", bytes.substr(std::min(end + 1, bytes.size())));
  const models::TokenBatch texts{Tensor::from({1, 2, 3, 4}, {2, 2})};
  const NoRecording off;
  const models::Bert model(adapted_config(), 1), other(adapted_config(), 1);
  std::optional<models::Lora> lora;
  if (!takes([&] { lora = models::load_lora(folder.path(), model); })) return;
  models::save_lora(folder / "saved", *lora);
  models::load_lora(folder / "saved", other);
  require(same_bits(model(texts).value(), other(texts).value()), "a saved adapter makes another model");
}

std::vector<std::string> adapter_seeds() {
  const Folder folder;
  std::vector<std::string> seeds;
  for (const models::LoraOptions& options :
       {models::LoraOptions{.rank = 2},
        models::LoraOptions{.rank = 1, .targets = {"query"}, .rank_stabilized = true}}) {
    const models::Bert model(adapted_config(), 1);
    models::save_lora(folder.path(), models::add_lora(model, options), "base");
    std::string seed = contents(folder / "adapter_config.json");
    seed.push_back('\0');
    seeds.push_back(seed + contents(folder / "adapter_model.safetensors"));
  }
  return seeds;
}

constexpr FuzzTarget kFolderTargets[] = {
    {"pretrained", load_any_folder, folder_seeds},
    {"adapter", load_any_adapter, adapter_seeds},
};

}  // namespace

std::span<const FuzzTarget> folder_targets() { return kFolderTargets; }

}  // namespace tapecache::testing
