// Folders that load_pretrained refuses: each message names the file and what is wrong in it.

#include <cmath>
#include <filesystem>
#include <functional>
#include <string>

#include "checks.h"
#include "folder.h"
#include "reference_cases.h"

using namespace tapecache;
using namespace tapecache::models;
using namespace tapecache::testing;

namespace {

/// A copy of a case whose files may be broken.
class Broken {
 public:
  explicit Broken(const char* name) {
    std::filesystem::copy(ReferenceCase{name}.folder(), folder_ / "model", std::filesystem::copy_options::recursive);
  }
  std::filesystem::path operator/(const std::string& file) const { return folder_ / "model" / file; }

  /// Puts other text in the place of some of a file, which must have it.
  Broken& with(const std::string& file, const std::string& text, const std::string& other) {
    std::string all = contents(*this / file);
    const std::size_t at = all.find(text);
    BOOST_REQUIRE_MESSAGE(at != std::string::npos, file << " has no " << text);
    put(*this / file, all.replace(at, text.size(), other));
    return *this;
  }
  Broken& with_tensors(const std::string& file, const std::function<void(SafetensorsFile&)>& change) {
    SafetensorsFile all = read_safetensors(*this / file);
    change(all);
    write_safetensors(*this / file, all);
    return *this;
  }
  void refused(std::vector<std::string> words, const PretrainedOptions& options = {}) const {
    BOOST_CHECK_EXCEPTION(load_pretrained(folder_ / "model", options), FileError, says(std::move(words)));
  }

 private:
  Folder folder_;
};

/// Of a case, with other text in the place of some of a file.
void refused_in(const char* name, const std::string& file, const std::string& text, const std::string& other,
                std::vector<std::string> words) {
  Broken broken(name);
  broken.with(file, text, other).refused(std::move(words));
}

}  // namespace

BOOST_AUTO_TEST_SUITE(pretrained_refusals)

BOOST_AUTO_TEST_CASE(folders_that_are_none) {
  const Folder folder;
  BOOST_CHECK_EXCEPTION(load_pretrained(folder / "none"), FileError, says({"none", "expected a folder"}));
  BOOST_CHECK_EXCEPTION(load_pretrained(folder.path()), FileError, says({"config.json: is missing"}));
  put(folder / "config.json", R"({"model_type": "bert"})");
  BOOST_CHECK_EXCEPTION(load_pretrained(folder.path()), FileError,
                        says({"model.safetensors: is missing, and so is model.safetensors.index.json"}));
  put(folder / "config.json", "{\"model_type\": ");
  BOOST_CHECK_EXCEPTION(load_pretrained(folder.path()), FileError, says({"config.json: not JSON at byte"}));
  put(folder / "config.json", std::string(100, '['));
  BOOST_CHECK_EXCEPTION(load_pretrained(folder.path()), FileError, says({"config.json: nested in more than 64"}));
  put(folder / "config.json", "[1]");
  BOOST_CHECK_EXCEPTION(load_pretrained(folder.path()), FileError,
                        says({"config.json: is [1], expected a JSON object", "model_type is missing"}));
  std::filesystem::remove(folder / "config.json");
  std::filesystem::create_directory(folder / "config.json");
  BOOST_CHECK_EXCEPTION(load_pretrained(folder.path()), FileError, says({"config.json", "expected a regular file"}));
}

BOOST_AUTO_TEST_CASE(model_types_that_are_not_supported) {
  Broken broken("bert_mean");
  broken.with("config.json", R"("model_type": "bert")", R"("model_type": "t5")");
  broken.refused({"config.json: model_type is \"t5\"",
                  "one of bert, roberta, xlm-roberta, mpnet, modernbert, qwen3, qwen2, llama, mistral, clip, "
                  "clip_text_model, clip_vision_model, siglip"});
}

BOOST_AUTO_TEST_CASE(all_that_is_wrong_is_named_together) {
  Broken broken("bert_mean");
  broken.with("config.json", R"("hidden_act": "gelu")", R"("hidden_act": "mish")")
      .with("config.json", R"("is_decoder": false)", R"("is_decoder": true)")
      .with("config.json", R"("vocab_size": 60)", R"("vocab_size": 61, "position_embedding_type": "relative_key")")
      .with_tensors("model.safetensors",
                    [](SafetensorsFile& file) { file.tensors.erase("encoder.layer.1.output.dense.weight"); });
  broken.refused({"config.json: hidden_act is \"mish\", expected gelu",
                  "config.json: is_decoder is true, expected false",
                  "position_embedding_type is \"relative_key\", expected \"absolute\"",
                  "model.safetensors: 'encoder.layer.1.output.dense.weight' is missing",
                  "'embeddings.word_embeddings.weight' has shape [60, 16], expected [61, 16]"});
}

/// What sentence-transformers hands to the classes of transformers, and lengths of queries and documents.
BOOST_AUTO_TEST_CASE(fields_of_a_sentence_transformer) {
  for (const char* fields :
       {R"("query_length": 32)", R"("document_length": 180)",
        R"("query_expansion": {"strategy": "fixed", "length": 32})",
        R"("processing_kwargs": {"text": {"max_length": 5}})",
        R"("processing_kwargs": {"text": {"padding": "max_length"}})",
        R"("processing_kwargs": {"text": {"truncation": false}})",
        R"("processing_kwargs": {"common": {"add_special_tokens": false}})",
        R"("processing_kwargs": {"image": {"do_resize": false}})", R"("model_args": {"num_hidden_layers": 1})",
        R"("model_kwargs": {"subfolder": "other"})", R"("config_args": {"hidden_act": "relu"})",
        R"("config_kwargs": {"is_decoder": true})", R"("tokenizer_args": {"do_lower_case": true})",
        R"("processor_kwargs": {"truncation_side": "left"})", R"("tokenizer_name_or_path": "other")"}) {
    const std::string all = fields;
    BOOST_TEST_CONTEXT(all) {
      // Whatever is within, the innermost name is told.
      const std::size_t end = all.rfind("\": "), begin = all.rfind('"', end - 1) + 1;
      const std::string name =
          all.starts_with("\"query_expansion") ? "query_expansion" : all.substr(begin, end - begin);
      const Broken broken("bert_mean");
      put(broken / "sentence_bert_config.json", "{" + all + "}");
      broken.refused({"sentence_bert_config.json", name});
    }
  }
  for (
      const char* fields :
      {R"("query_length": null, "document_length": null, "query_expansion": null, "processing_kwargs": {})",
       R"("processing_kwargs": {"text": {"padding": true, "truncation": "longest_first"}, "audio": {"sampling_rate": 1},
           "chat_template": {"add_generation_prompt": true}, "common": {"return_tensors": "pt"}})",
       R"("model_args": {"trust_remote_code": true, "attn_implementation": "sdpa", "torch_dtype": "float16"})",
       R"("config_args": {}, "tokenizer_args": {"use_fast": true, "padding_side": "left"}, "unpad_inputs": false)"}) {
    Folder folder;
    std::filesystem::copy(ReferenceCase{"bert_mean"}.folder(), folder / "model",
                          std::filesystem::copy_options::recursive);
    put(folder / "model/sentence_bert_config.json", std::string("{") + fields + "}");
    BOOST_CHECK_NO_THROW(load_pretrained(folder / "model"));
  }
}

BOOST_AUTO_TEST_CASE(fields_of_bert) {
  const auto refused = [](const std::string& field, const std::string& other, std::vector<std::string> words) {
    Broken broken("bert_mean");
    broken.with("config.json", field, other).refused(std::move(words));
  };
  refused(R"("num_attention_heads": 2)", R"("num_attention_heads": 3)",
          {"config.json: num_attention_heads is 3, expected a divisor of hidden_size, 16"});
  refused(R"("num_hidden_layers": 2)", R"("num_hidden_layers": 200000000)",
          {"config.json: num_hidden_layers is 200000000, expected fewer than"});
  refused(R"("num_hidden_layers": 2)", R"("num_hidden_layers": 3)",
          {"model.safetensors: 'encoder.layer.2.attention.self.query.weight' is missing"});
  refused(R"("num_hidden_layers": 2)", R"("num_hidden_layers": 1)",
          {"'encoder.layer.' goes on to encoder.layer.1 in the file, in the model to encoder.layer.0"});
  refused(R"("hidden_size": 16)", R"("hidden_size": -16)",
          {"config.json: hidden_size is -16, expected a whole number"});
  refused(R"("hidden_size": 16)", R"("hidden_size": 268435456)", {"'embeddings.word_embeddings.weight' has shape"});
  refused(R"("hidden_size": 16)", R"("hidden_size": "16")", {"config.json: hidden_size is \"16\""});
  refused(R"("layer_norm_eps": 1e-12)", R"("layer_norm_eps": 0)", {"config.json: layer_norm_eps is 0, expected"});
  refused(R"("layer_norm_eps": 1e-12)", R"("layer_norm_eps": 1e999)", {"config.json: not JSON at byte"});
  refused(R"("hidden_dropout_prob": 0.1)", R"("hidden_dropout_prob": 1)",
          {"hidden_dropout_prob is 1, expected 0 <= p < 1"});
  refused(R"("hidden_dropout_prob": 0.1)", R"("auto_map": {"AutoModel": "modeling.Other"})",
          {"config.json: auto_map.AutoModel is \"modeling.Other\", expected none"});
  refused(R"("hidden_dropout_prob": 0.1)", R"("quantization_config": {"bits": 4})",
          {"config.json: quantization_config is an object of 1 members, expected none"});
  refused(R"("hidden_dropout_prob": 0.1)", R"("pruned_heads": {"0": [1]})", {"config.json: pruned_heads"});
}

BOOST_AUTO_TEST_CASE(fields_of_modernbert) {
  const auto refused = [](const std::string& field, const std::string& other, std::vector<std::string> words) {
    Broken broken("modernbert");
    broken.with("config.json", field, other).refused(std::move(words));
  };
  refused(R"("hidden_activation": "gelu")", R"("hidden_activation": "mish")",
          {"config.json: hidden_activation is \"mish\", expected gelu"});
  refused(R"("num_attention_heads": 2)", R"("num_attention_heads": 3)",
          {"config.json: num_attention_heads is 3, expected a divisor of hidden_size, 16"});
  refused(R"("num_attention_heads": 2)", R"("num_attention_heads": 16)",
          {"num_attention_heads is 16", "an even width"});
  refused(R"("num_hidden_layers": 4)", R"("num_hidden_layers": 5)",
          {"expected one of these for each of 5 layers", "'layers.4.attn_norm.weight' is missing"});
  refused(R"("num_hidden_layers": 4)", R"("num_hidden_layers": 200000000)", {"expected fewer than"});
  refused(R"("local_attention": 4)", R"("local_attention": 0)", {"config.json: local_attention is 0"});
  refused(R"("local_attention": 4)", R"("local_attention": 4, "rope_scaling": {"type": "yarn"})",
          {"config.json: rope_scaling is an object of 1 members, expected none"});
  refused(R"("rope_type": "default")", R"("rope_type": "dynamic")",
          {"config.json: rope_parameters.", "_attention.rope_type is \"dynamic\", expected default, linear or llama3"});
  refused("\"full_attention\",", "\"chunked_attention\",",
          {"config.json: layer_types is [\"chunked_attention\", ", "expected full_attention and sliding_attention"});
  refused(R"("mlp_bias": false)", R"("mlp_bias": true)", {"'layers.0.mlp.Wi.bias' is missing"});
  const Broken unpooled("modernbert_masked");
  std::filesystem::remove(unpooled / "modules.json");
  unpooled.refused({"config.json: model_type is \"modernbert\", expected one with a pooler"}, {.pooler = true});
}

BOOST_AUTO_TEST_CASE(fields_of_decoders) {
  const auto refused = [](const char* name, const std::string& field, const std::string& other,
                          std::vector<std::string> words) {
    Broken broken(name);
    broken.with("config.json", field, other).refused(std::move(words));
  };
  refused("qwen3", R"("num_key_value_heads": 2)", R"("num_key_value_heads": 3)",
          {"config.json: num_key_value_heads is 3, expected a divisor of num_attention_heads, 4"});
  refused("qwen3", R"("head_dim": 8)", R"("head_dim": 7)", {"config.json: head_dim is 7, expected an even width"});
  refused("qwen3", R"("head_dim": 8)", R"("head_dim": 4)", {"'layers.0.self_attn.q_proj.weight' has shape [32, 16]"});
  refused("qwen3", R"("rope_scaling": null)", R"("rope_scaling": {"rope_type": "yarn", "factor": 4.0})",
          {"config.json: rope_scaling.rope_type is \"yarn\", expected default, linear or llama3"});
  refused("qwen3", R"("rope_scaling": null)", R"("rope_scaling": {"rope_type": "linear"})",
          {"config.json: rope_scaling.factor is missing"});
  refused("qwen3", R"("rope_scaling": null)", R"("partial_rotary_factor": 0.5)",
          {"config.json: partial_rotary_factor is 0.5, expected none"});
  refused("qwen3", R"("rms_norm_eps": 1e-06)", R"("rms_norm_eps": 0)", {"config.json: rms_norm_eps is 0"});
  refused("qwen2", R"("use_sliding_window": true)", R"("use_sliding_window": false)",
          {"config.json: use_sliding_window is false, expected true beside layer_types"});
  refused("qwen2", R"("use_sliding_window": true)", R"("use_sliding_window": true, "is_causal": false)",
          {"config.json: is_causal is false, expected true beside a sliding window"});
  refused("llama", R"("high_freq_factor": 4.0)", R"("high_freq_factor": 0.5)",
          {"rope_parameters.high_freq_factor is 0.5, expected more than low_freq_factor, 1"});
  refused("llama", R"("hidden_act": "silu")", R"("hidden_act": "relu2")", {"config.json: hidden_act is \"relu2\""});
  refused("llama", R"("mlp_bias": true)", R"("mlp_bias": false)",
          {"'model.layers.0.mlp.down_proj.bias' belongs to no parameter"});
}

BOOST_AUTO_TEST_CASE(modules_of_sentence_transformers) {
  const auto refused = [](const std::string& file, const std::string& field, const std::string& other,
                          std::vector<std::string> words) {
    Broken broken("bert_dense");
    broken.with(file, field, other).refused(std::move(words));
  };
  refused("modules.json", "models.Normalize", "models.LSTM", {"modules.json: type is", "LSTM", "expected one of"});
  refused("modules.json", "sentence_transformers.models.Dense", "custom.Dense",
          {"modules.json: type is \"custom.Dense\""});
  refused("modules.json", "\"path\": \"1_Pooling\"", "\"path\": \"../1_Pooling\"",
          {"modules.json: path is \"../1_Pooling\""});
  refused("modules.json", "\"path\": \"2_Dense\"", "\"path\": \"9_Dense\"", {"9_Dense/config.json: is missing"});
  refused("2_Dense/config.json", "\"in_features\": 32", "\"in_features\": 16",
          {"2_Dense/config.json: in_features is 16, expected 32",
           "2_Dense/model.safetensors: 'linear.weight' has shape [12, 32]"});
  refused("2_Dense/config.json", "activation.Tanh", "activation.Mish", {"2_Dense/config.json: activation_function is"});
  refused("2_Dense/config.json", "\"bias\": true", "\"bias\": false", {"'linear.bias' belongs to no parameter"});
  refused("1_Pooling/config.json", "\"max\"", "\"median\"", {"1_Pooling/config.json: pooling_mode is"});
  refused("1_Pooling/config.json", "\"include_prompt\": true", "\"include_prompt\": false",
          {"1_Pooling/config.json: include_prompt is false"});
  refused("1_Pooling/config.json", "\"embedding_dimension\": 16", "\"embedding_dimension\": 17",
          {"1_Pooling/config.json: word_embedding_dimension is 17, expected 16"});
  Broken broken("bert_mean");
  put(broken / "modules.json", "{}");
  broken.refused({"modules.json: is an object of 0 members, expected a list"});
  put(broken / "modules.json", R"([{"path": "", "type": "sentence_transformers.models.Transformer"}])");
  broken.refused({"modules.json: no Pooling follows"});
  put(broken / "modules.json", "[]");
  broken.refused({"modules.json: no module is a Transformer"});
  Broken task("bert_mean");
  put(task / "sentence_bert_config.json", R"({"transformer_task": "fill-mask"})");
  task.refused({"sentence_bert_config.json: transformer_task is \"fill-mask\""});
  put(task / "sentence_bert_config.json", "{}");
  put(task / "config_sentence_transformers.json", R"({"prompts": {"query": 1}, "default_prompt_name": "other"})");
  task.refused({"config_sentence_transformers.json: prompts.query is 1", "default_prompt_name is \"other\""});
  Broken bert("bert_mean");
  put(bert / "modules.json", R"([{"path": "", "type": "sentence_transformers.models.CLIPModel"}])");
  bert.refused({"modules.json: has a CLIPModel, whose model_type is bert, expected clip"});
  refused_in("sentence_clip", "modules.json", "models.Dense", "models.Pooling", {"modules.json: type is"});
  refused_in("sentence_clip", "0_CLIPModel/config.json", R"("patch_size": 4)", R"("patch_size": 3)",
             {"0_CLIPModel/config.json: vision_config.patch_size is 3"});
  Broken clip("clip");
  put(clip / "modules.json", contents(task / "modules.json"));
  std::filesystem::create_directory(clip / "1_Pooling");
  put(clip / "1_Pooling/config.json", "{}");
  clip.refused({"modules.json: there is one, expected none beside a clip"});
}

BOOST_AUTO_TEST_CASE(shards) {
  const auto index = "model.safetensors.index.json";
  Broken missing("bert_cls_shards");
  std::filesystem::remove(missing / "model-00002-of-00002.safetensors");
  missing.refused({index, "names 'model-00002-of-00002.safetensors', which is missing"});
  Broken elsewhere("bert_cls_shards");
  elsewhere.with(index, "model-00002-of-00002.safetensors", "../model.safetensors");
  elsewhere.refused({index, "expected the name of a file of the folder"});
  Broken wrong("bert_cls_shards");
  wrong.with(index, "model-00002-of-00002.safetensors", "model-00001-of-00002.safetensors");
  wrong.refused({index, "names 'model-00001-of-00002.safetensors' for tensor", "which it has not"});
  Broken none("bert_cls_shards");
  put(none / index, "{}");
  none.refused({index, "weight_map is missing"});
  Broken cut("bert_cls_shards");
  const std::string whole = contents(cut / "model-00001-of-00002.safetensors");
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{4}, whole.size() / 20, whole.size() - 1}) {
    put(cut / "model-00001-of-00002.safetensors", std::string_view(whole).substr(0, bytes));
    cut.refused({"model-00001-of-00002.safetensors"});
  }
}

BOOST_AUTO_TEST_CASE(tensors_that_are_not_as_they_are_to_be) {
  Broken nan("bert_mean");
  nan.with_tensors("model.safetensors", [](SafetensorsFile& file) {
    file.tensors.at("embeddings.LayerNorm.bias").mutable_data<float>()[3] = NAN;
  });
  nan.refused({"model.safetensors: 'embeddings.LayerNorm.bias' has 1 NaN or Inf"});
  Broken other("bert_mean");
  other.with_tensors("model.safetensors",
                     [](SafetensorsFile& file) { file.tensors.emplace("adapter.weight", Tensor::zeros({2})); });
  other.refused({"'adapter.weight' belongs to no parameter"});
  Broken pooler("bert_mean");
  pooler.with_tensors("model.safetensors", [](SafetensorsFile& file) {
    file.tensors["pooler.dense.weight"] = Tensor::zeros({16, 16}, DType::kInt64);
  });
  pooler.refused({"'pooler.dense.weight' is int64, expected a floating type"});
}

BOOST_AUTO_TEST_CASE(fields_of_siglip) {
  refused_in("siglip", "config.json", R"("vision_use_head": true)", R"("vision_use_head": false)",
             {"config.json: vision_config.vision_use_head is false"});
  refused_in("siglip", "config.json", R"("projection_size": 24)", R"("projection_size": 20)",
             {"text_config.projection_size is 20, expected the hidden_size of vision_config, 24"});
  refused_in("siglip_vision", "config.json", R"("patch_size": 4)", R"("patch_size": 11)",
             {"patch_size is 11, expected at most"});
  refused_in("siglip", "config.json", R"("pad_token_id": 1)", R"("pad_token_id": 60)",
             {"text_config.pad_token_id is 60, expected an id below vocab_size, 60"});
  refused_in("siglip", "config.json", R"("pad_token_id": 1)", R"("pad_token_id": null)",
             {"text_config.pad_token_id is", "as there is no tokenizer that tells"});
  Broken tokenizer("siglip_text");
  tokenizer.with("tokenizer_config.json", R"("0": {)", R"("60": {)");
  tokenizer.refused({"its tokenizer pads with 60, expected an id below vocab_size, 60"});
}

BOOST_AUTO_TEST_CASE(fields_of_vit_and_dinov2) {
  refused_in("vit", "config.json", R"("pooler_act": "tanh")", R"("pooler_act": "relu")",
             {"config.json: pooler_act is \"relu\""});
  refused_in("vit", "config.json", R"("patch_size": 4)", R"("patch_size": 3)",
             {"patch_size is 3, expected a divisor of image_size, 8"});
  refused_in("vit", "config.json", R"("image_size": 8)", R"("image_size": [8, 16])", {"image_size is"});
  refused_in("vit", "config.json", R"("qkv_bias": true)", R"("qkv_bias": false)",
             {"query.bias' belongs to no parameter"});
  refused_in("vit_classes", "config.json", R"("3": "LABEL_3")", R"("7": "LABEL_3")",
             {"id2label is", "labels of the ids from 0 to 4"});
  refused_in("vit_classes", "config.json", R"("0": "LABEL_0",)", "", {"id2label is", "labels of the ids from 0 to 3"});
  refused_in("dinov2", "config.json", R"("mlp_ratio": 2)", R"("mlp_ratio": 3)",
             {"mlp.fc1.weight' has shape [32, 16], expected [48, 16]"});
  refused_in("dinov2", "config.json", R"("use_swiglu_ffn": false)", R"("use_swiglu_ffn": true)",
             {"mlp.weights_in.weight' is missing"});
  refused_in("dinov2_registers", "config.json", R"("num_register_tokens": 4)", R"("num_register_tokens": 3)",
             {"register_tokens' has shape [1, 4, 16], expected [1, 3, 16]"});
}

BOOST_AUTO_TEST_CASE(fields_of_clip) {
  refused_in("clip", "config.json", R"("hidden_act": "quick_gelu")", R"("hidden_act": "mish")",
             {"config.json: text_config.hidden_act is \"mish\""});
  refused_in("clip_text", "config.json", R"("eos_token_id": 2)", R"("eos_token_id": 60)",
             {"config.json: eos_token_id is 60, expected an id below vocab_size, 60"});
  refused_in("clip_vision", "config.json", R"("patch_size": 4)", R"("patch_size": 3)",
             {"config.json: patch_size is 3, expected a divisor of image_size, 8"});
  refused_in("clip", "config.json", R"("projection_dim": 8,
  "text_config")",
             R"("projection_dim": 9, "text_config")", {"'text_projection.weight' has shape [8, 16], expected [9, 16]"});
  const char* open_clip = "open_clip_config.json";
  refused_in("open_clip", open_clip, R"("head_width": 12)", R"("head_width": 13)",
             {"open_clip_config.json: model_cfg.vision_cfg.head_width is 13, expected a divisor of width, 24"});
  for (const char* field : {R"("ls_init_value": 0.1)", R"("qk_norm": true)", R"("timm_model_name": "vit")",
                            R"("pool_type": "avg")", R"("attentional_pool": true)"}) {
    refused_in("open_clip", open_clip, R"("head_width": 12)", std::string(R"("head_width": 12, )") + field,
               {"open_clip_config.json: model_cfg.vision_cfg."});
  }
  for (const char* field : {R"("pool_type": "eos")", R"("hf_model_name": "roberta")", R"("no_causal_mask": true)"}) {
    refused_in("open_clip", open_clip, R"("context_length": 9)", std::string(R"("context_length": 9, )") + field,
               {"open_clip_config.json: model_cfg.text_cfg."});
  }
  refused_in("open_clip", open_clip, R"("embed_dim": 8)", R"("embed_dim": 8, "custom_text": true)",
             {"open_clip_config.json: model_cfg.custom_text is true"});
}

BOOST_AUTO_TEST_SUITE_END()
