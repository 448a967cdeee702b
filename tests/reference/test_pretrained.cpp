// What load_pretrained and save_pretrained do beside giving the right values.

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <string>
#include <vector>

#include "checks.h"
#include "folder.h"
#include "reference_cases.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/core/device.h"
#include "tapecache/core/random.h"
#include "tapecache/gradcache/grad_cache.h"
#include "tapecache/models/bert.h"
#include "tapecache/models/lora.h"
#include "tapecache/models/pretrained.h"
#include "tapecache/models/sentence_modules.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/reduce.h"

using namespace tapecache;
using namespace tapecache::models;
using namespace tapecache::testing;

namespace {

std::filesystem::path case_folder(const char* name) { return ReferenceCase{name}.folder(); }

/// A few texts of different lengths, padded on the right, or on the left.
TokenBatch some_texts(bool left = false) {
  TokenBatch texts{Tensor::from({5, 6, 7, 8, 9, 0, 11, 0, 0}, {3, 3}), {}};
  texts.valid = Tensor::from(std::vector<bool>{true, true, true, true, true, false, true, false, false}, {3, 3});
  if (left) {
    texts.ids = Tensor::from({5, 6, 7, 0, 8, 9, 0, 0, 11}, {3, 3});
    texts.valid = Tensor::from(std::vector<bool>{true, true, true, false, true, true, false, false, true}, {3, 3});
  }
  return texts;
}

Tensor encoded(const Pretrained& model, const TokenBatch& texts) {
  const NoRecording off;
  return model.encode(texts).value();
}

}  // namespace

BOOST_AUTO_TEST_SUITE(pretrained)

BOOST_AUTO_TEST_CASE(info_is_what_the_folder_says) {
  const Pretrained bert = load_pretrained(case_folder("bert_mean"));
  const Pretrained::Info& info = bert.info();
  BOOST_TEST(info.architecture == "bert");
  BOOST_TEST(info.pooling == "mean");
  BOOST_TEST(info.normalized);
  BOOST_TEST(info.width == 16);
  BOOST_TEST(info.vocabulary == 60);
  BOOST_TEST(info.max_tokens == 10);  // sentence_bert_config.json's, of 12
  BOOST_TEST(!info.lower_case);
  BOOST_TEST(info.prompts.at("query") == "query: ");
  BOOST_TEST(info.default_prompt.value() == "document");
  BOOST_TEST(info.similarity == "dot");
  BOOST_TEST(info.notes.size() == 1);
  BOOST_TEST(info.notes.at(0).find("attention_probs_dropout_prob is 0.1") != std::string::npos);
  BOOST_TEST(bert.encodes_texts());
  BOOST_TEST(!bert.encodes_images());
  BOOST_TEST(!bert.logit_scale().has_value());
  BOOST_CHECK_EXCEPTION(bert.encode_images(Tensor::zeros({1, 3, 8, 8})), ValueError, says({"encodes no images"}));

  const Pretrained dense = load_pretrained(case_folder("bert_dense"));
  BOOST_TEST(dense.info().pooling == "max+mean");
  BOOST_TEST(dense.info().width == 8);
  const Pretrained clip = load_pretrained(case_folder("clip"));
  BOOST_TEST(clip.info().pooling == "end of text");
  BOOST_TEST(clip.info().width == 8);
  BOOST_TEST(clip.info().image_size == 8);
  BOOST_TEST(clip.info().image_channels == 3);
  BOOST_TEST(clip.info().max_tokens == 12);
  BOOST_TEST(clip.logit_scale().value().name() == "logit_scale");
  const Pretrained vision = load_pretrained(case_folder("clip_vision"));
  BOOST_TEST(vision.info().max_tokens == 0);
  BOOST_TEST(vision.info().width == 24);
  BOOST_TEST(!vision.info().normalized);
  BOOST_CHECK_EXCEPTION(vision.encode(some_texts()), ValueError, says({"encodes no texts"}));
}

/// Where sentence-transformers has no length of its own, it takes the tokenizer's and that of the positions.
BOOST_AUTO_TEST_CASE(the_length_of_texts_is_the_tokenizers_where_no_other_is_said) {
  const Folder folder;
  const auto tokens = [&](const char* sentence, const char* tokenizer) {
    std::filesystem::remove_all(folder / "model");
    std::filesystem::copy(case_folder("bert_mean"), folder / "model", std::filesystem::copy_options::recursive);
    put(folder / "model/sentence_bert_config.json", sentence);
    if (tokenizer) put(folder / "model/tokenizer_config.json", tokenizer);
    return load_pretrained(folder / "model").info().max_tokens;
  };
  BOOST_TEST(tokens("{}", nullptr) == 12);
  BOOST_TEST(tokens("{}", R"({"model_max_length": 7})") == 7);
  BOOST_TEST(tokens("{}", R"({"max_len": 6})") == 6);
  BOOST_TEST(tokens("{}", R"({"model_max_length": 512})") == 12);
  BOOST_TEST(tokens("{}", R"({"model_max_length": 1000000000000000019884624838656})") == 12);
  BOOST_TEST(tokens("{}", R"({"model_max_length": null})") == 12);
  BOOST_TEST(tokens(R"({"max_seq_length": 10})", R"({"model_max_length": 7})") == 10);
  BOOST_TEST(tokens(R"({"tokenizer_args": {"model_max_length": 9}, "max_seq_length": 10})", "{}") == 9);
  BOOST_CHECK_EXCEPTION(tokens("{}", R"({"model_max_length": 0})"), FileError,
                        says({"tokenizer_config.json: model_max_length is 0"}));
}

BOOST_AUTO_TEST_CASE(files_of_another_folder_count_before) {
  const Folder folder;
  const Pretrained plain = load_pretrained(case_folder("bert_mean"));
  const auto load = [&] { return load_pretrained(case_folder("bert_mean"), {.files_from = folder.path()}); };
  BOOST_TEST(same_bits(encoded(load(), some_texts()), encoded(plain, some_texts())));
  // One by one, where it has no modules.
  put(folder / "sentence_bert_config.json", R"({"max_seq_length": 5, "do_lower_case": true})");
  put(folder / "tokenizer.json", "{}");
  Pretrained model = load();
  BOOST_TEST(model.info().max_tokens == 5);
  BOOST_TEST(model.info().lower_case);
  BOOST_TEST(model.info().prompts.at("query") == "query: ");
  BOOST_TEST(model.tokenizer_folder() == folder.path());
  BOOST_TEST(model.processor_folder() == case_folder("bert_mean"));
  BOOST_TEST(same_bits(encoded(model, some_texts()), encoded(plain, some_texts())));
  // All of them, where it has: no prompts then.
  put(folder / "modules.json", R"([{"type": "sentence_transformers.models.Transformer", "path": ""},
                                   {"type": "sentence_transformers.models.Pooling", "path": "pool"}])");
  std::filesystem::create_directory(folder / "pool");
  put(folder / "pool/config.json", R"({"word_embedding_dimension": 16, "pooling_mode_cls_token": true})");
  model = load();
  BOOST_TEST(model.info().pooling == "cls");
  BOOST_TEST(!model.info().normalized);
  BOOST_TEST(model.info().prompts.empty());
  BOOST_TEST(model.folder() == case_folder("bert_mean"));
  BOOST_TEST(!same_bits(encoded(model, some_texts()), encoded(plain, some_texts())));
  save_pretrained(folder / "saved", model);
  BOOST_TEST(contents(folder / "saved/pool/config.json") == contents(folder / "pool/config.json"));
  BOOST_TEST(contents(folder / "saved/tokenizer.json") == "{}");
  BOOST_TEST(same_bits(encoded(load_pretrained(folder / "saved"), some_texts()), encoded(model, some_texts())));
  // Also where the model's weights tell that they were saved with another pooling.
  save_pretrained(folder / "mean", plain);
  const Pretrained other = load_pretrained(folder / "mean", {.files_from = folder.path()});
  BOOST_TEST(same_bits(encoded(other, some_texts()), encoded(model, some_texts())));
}

/// Its transformer is at the root, and the modules behind it are the model's.
BOOST_AUTO_TEST_CASE(an_adapters_folder_has_what_its_model_has_behind_the_transformer) {
  const Folder folder;
  const Pretrained dense = load_pretrained(case_folder("bert_dense"));
  const Lora lora = add_lora(dense, {.targets = {"query"}});
  for (Parameter p : lora.parameters()) p.mutable_value().fill(0.25);
  save_lora(folder / "adapter", lora, dense);
  BOOST_TEST(Lora::base_of(folder / "adapter") == case_folder("bert_dense"));
  const Pretrained again = load_pretrained(Lora::base_of(folder / "adapter"), {.files_from = folder / "adapter"});
  BOOST_TEST(again.info().pooling == "max+mean");
  load_lora(folder / "adapter", again);
  BOOST_TEST(same_bits(encoded(again, some_texts()), encoded(dense, some_texts())));
  // In the place of another one, and of a folder that keeps its transformer in one of its own.
  const Pretrained clip = load_pretrained(case_folder("sentence_clip"));
  const Lora of_clip = add_lora(clip, {.targets = {"q_proj"}});
  save_lora(folder / "adapter", of_clip, clip);
  const std::string modules = contents(folder / "adapter/modules.json");
  BOOST_TEST(modules.find("CLIPModel") != std::string::npos);
  BOOST_TEST(modules.find("\"path\": \"\"") != std::string::npos);
  BOOST_TEST(std::filesystem::exists(std::filesystem::path(Lora::base_of(folder / "adapter")) / "config.json"));
}

BOOST_AUTO_TEST_CASE(dropout_is_off_until_training_is_set) {
  const Pretrained model = load_pretrained(case_folder("bert_mean"));
  BOOST_TEST(!model.training());
  const Tensor first = encoded(model, some_texts());
  BOOST_TEST(same_bits(first, encoded(model, some_texts())));
  model.set_training(true);
  BOOST_TEST(!same_bits(first, encoded(model, some_texts())));
  const Pretrained without = load_pretrained(case_folder("bert_mean"), {.dropout = 0.0});
  without.set_training(true);
  BOOST_TEST(same_bits(first, encoded(without, some_texts())));
  BOOST_CHECK_EXCEPTION(load_pretrained(case_folder("bert_mean"), {.dropout = 1.5}), ValueError,
                        says({"dropout is 1.5"}));
}

BOOST_AUTO_TEST_CASE(checkpointed_blocks_give_the_same_bits) {
  const Pretrained plain = load_pretrained(case_folder("bert_mean"));
  const Pretrained checkpointed = load_pretrained(case_folder("bert_mean"), {.checkpoint = true});
  BOOST_TEST(same_bits(encoded(plain, some_texts()), encoded(checkpointed, some_texts())));
  // And the same gradients, that of a bias which all blocks share among them.
  const auto gradients = [](const char* name, bool checkpoint, bool training) {
    const Pretrained model = load_pretrained(case_folder(name), {.dropout = 0.25, .checkpoint = checkpoint});
    model.set_training(training);
    begin_random_step(1, 2);
    Tape tape;
    Variable sum;
    {
      const Recording recording(tape);
      sum = ops::sum(ops::multiply(model.encode(some_texts()), Tensor::full({3, 16}, 0.5)));
    }
    tape.backward(sum);
    std::vector<Tensor> all;
    for (const Parameter& p : model.parameters()) all.push_back(p.gradient());
    return all;
  };
  BOOST_TEST(std::ranges::equal(gradients("mpnet", false, false), gradients("mpnet", true, false), same_bits));
  for (const char* name : {"modernbert", "qwen3"}) {
    for (const bool training : {false, true}) {
      BOOST_TEST_CONTEXT(name << (training ? " in training" : "")) {
        BOOST_TEST(std::ranges::equal(gradients(name, false, training), gradients(name, true, training), same_bits));
      }
    }
    BOOST_TEST(!std::ranges::equal(gradients(name, false, false), gradients(name, false, true), same_bits));
  }
}

/// Rotary positions are relative ones.
BOOST_AUTO_TEST_CASE(rotary_models_see_no_padding) {
  for (const char* name : {"modernbert", "qwen3", "qwen2", "llama", "mistral"}) {
    BOOST_TEST_CONTEXT(name) {
      const Pretrained model = load_pretrained(case_folder(name), {.dtype = DType::kFloat64});
      const Tensor right = encoded(model, some_texts()), left = encoded(model, some_texts(true));
      BOOST_TEST(max_difference(right, left) <= 1e-6);  // angles are of f32
      const TokenBatch alone{some_texts().ids.slice(1, 2).clone(), some_texts().valid.slice(1, 2).clone()};
      BOOST_TEST(same_bits(right.slice(1, 2).clone(), encoded(model, alone)));
    }
  }
}

BOOST_AUTO_TEST_CASE(cached_steps_of_rotary_models) {
  for (const char* name : {"modernbert", "qwen3"}) {
    const Pretrained model = load_pretrained(case_folder(name), {.dtype = DType::kFloat64, .dropout = 0.25});
    model.set_training(true);
    const auto encode = [&](const TokenBatch& texts) { return model.encode(texts); };
    const std::vector<gradcache::Tower> towers{{"queries", some_texts(), encode},
                                               {"targets", some_texts(true), encode}};
    const gradcache::Loss loss = [](std::span<const Variable> r) { return losses::info_nce(r[0], r[1], {.scale = 3}); };
    for (const std::int64_t chunk : {1, 2}) {
      begin_random_step(1, 2);
      const gradcache::Comparison c = gradcache::compare(towers, loss, {{chunk}}, model.parameters());
      BOOST_TEST(c.relative_norm <= 1e-12, name << ", chunk " << chunk << ": " << c.relative_norm);
    }
  }
}

BOOST_AUTO_TEST_CASE(bidirectional_decoders) {
  const Folder folder;
  std::filesystem::copy(case_folder("llama"), folder / "model", std::filesystem::copy_options::recursive);
  std::string config = contents(folder / "model/config.json");
  config.replace(config.find("{") + 1, 0, "\n  \"is_causal\": false,");
  put(folder / "model/config.json", config);
  const Pretrained both_ways = load_pretrained(folder / "model"), causal = load_pretrained(case_folder("llama"));
  BOOST_TEST(both_ways.info().pooling == "mean");
  BOOST_TEST(causal.info().pooling == "lasttoken");
  // The first token's state tells which tokens it sees.
  const auto first_token = [](const std::filesystem::path& from, std::int64_t last) {
    const Pretrained model = load_pretrained(from, {.pooling = TokenPooling::kCls});
    return encoded(model, {Tensor::from(std::vector<std::int64_t>{5, 6, last}, {1, 3}), {}});
  };
  BOOST_TEST(same_bits(first_token(case_folder("llama"), 7), first_token(case_folder("llama"), 8)));
  BOOST_TEST(!same_bits(first_token(folder / "model", 7), first_token(folder / "model", 8)));
}

BOOST_AUTO_TEST_CASE(a_folder_without_modules_is_pooled_as_the_options_say) {
  const auto folder = case_folder("bert_pooler");
  const Pretrained unsaid = load_pretrained(folder);
  BOOST_TEST(unsaid.info().pooling == "mean");
  BOOST_TEST(!unsaid.info().normalized);
  const Pretrained cls = load_pretrained(folder, {.pooling = TokenPooling::kCls, .normalize = true});
  BOOST_TEST(cls.info().pooling == "cls");
  BOOST_TEST(cls.info().normalized);
  const Bert bert({.vocabulary = 60,
                   .max_tokens = 12,
                   .encoder = {.width = 16,
                               .layers = 2,
                               .heads = 2,
                               .mlp_width = 24,
                               .activation = ops::Activation::kGeluTanh,
                               .epsilon = 1e-3}},
                  1);
  load_weights(folder / "model.safetensors", bert.builder(), {.prefix = "bert."});
  const NoRecording off;
  BOOST_TEST(same_bits(encoded(unsaid, some_texts()), bert(some_texts()).value()));
  // What was chosen is written, so that sentence-transformers does the same.
  const Folder saved;
  save_pretrained(saved / "cls", cls);
  const Pretrained again = load_pretrained(saved / "cls");
  BOOST_TEST(again.info().pooling == "cls");
  BOOST_TEST(same_bits(encoded(cls, some_texts()), encoded(again, some_texts())));
  // The pooler, which takes no part, is kept for those who ask for it.
  const auto pooler = [](const std::filesystem::path& file, const std::string& prefix) {
    return read_safetensors(file).tensors.at(prefix + "pooler.dense.weight");
  };
  BOOST_TEST(same_bits(pooler(saved / "cls/model.safetensors", ""), pooler(folder / "model.safetensors", "bert.")));
}

BOOST_AUTO_TEST_CASE(pooling_takes_no_padding_on_either_side) {
  for (const char* name : {"cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"}) {
    BOOST_TEST_CONTEXT(name) {
      const TokenPooling pooling = token_pooling(name).value();
      BOOST_TEST(models::name(pooling) == name);
      const TokenBatch right = some_texts(), left = some_texts(true);
      const auto states = [](const Tensor& ids) { return Variable(ids.to(DType::kFloat32).reshape({3, 3, 1})); };
      const Tensor a = pool_tokens(states(right.ids), right.valid, pooling).value();
      BOOST_TEST(same_bits(a, pool_tokens(states(left.ids), left.valid, pooling).value()));
    }
  }
  const Variable x(Tensor::from({1.F, 2.F, 3.F, 4.F}, {1, 4, 1}));
  check_equal(pool_tokens(x, {}, TokenPooling::kMeanSqrtLength).value(), {5});
  check_equal(pool_tokens(x, {}, TokenPooling::kWeightedMean).value(), {3});
  BOOST_TEST(!token_pooling("median").has_value());
}

BOOST_AUTO_TEST_CASE(a_mapped_model_is_the_same_and_leaves_the_file) {
  const Folder folder;
  // Large enough that a view of the file is worth it.
  const Bert bert(
      {.vocabulary = 2000, .position_offset = 0, .encoder = {.width = 32, .layers = 1, .heads = 2, .mlp_width = 32}},
      3);
  save_weights(folder / "model.safetensors", bert.builder());
  put(folder / "config.json",
      R"({"model_type": "bert", "vocab_size": 2000, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
          "intermediate_size": 32, "hidden_dropout_prob": 0})");
  const std::string before = contents(folder / "model.safetensors");
  const Pretrained read = load_pretrained(folder.path()), mapped = load_pretrained(folder.path(), {.memory_map = true});
  const auto words = [](const Pretrained& model) {
    return std::ranges::find(model.parameters(), "embeddings.word_embeddings.weight", &Parameter::name)->value();
  };
  BOOST_TEST(words(mapped).is_wrapped());
  BOOST_TEST(!words(read).is_wrapped());
  BOOST_TEST(same_bits(encoded(read, some_texts()), encoded(mapped, some_texts())));
  words(mapped).mutable_data<float>()[0] = 3;
  BOOST_TEST(contents(folder / "model.safetensors") == before);
}

BOOST_AUTO_TEST_CASE(loading_takes_the_memory_of_the_model_once) {
  const Folder folder;
  const Bert bert(
      {.vocabulary = 20000, .position_offset = 0, .encoder = {.width = 64, .layers = 2, .heads = 2, .mlp_width = 64}},
      3);
  save_weights(folder / "model.safetensors", bert.builder());
  put(folder / "config.json",
      R"({"model_type": "bert", "vocab_size": 20000, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
          "intermediate_size": 64})");
  std::size_t bytes = 0;
  for (const Parameter& p : bert.parameters()) bytes += p.value().bytes();
  const std::size_t before = Device::cpu().memory_stats().current;
  Device::cpu().reset_memory_peak();
  const Pretrained model = load_pretrained(folder.path());
  BOOST_TEST(Device::cpu().memory_stats().peak - before <= bytes + bytes / 10);
}

BOOST_AUTO_TEST_CASE(a_saved_folder_keeps_what_its_own_had) {
  const Folder folder;
  std::filesystem::copy(case_folder("bert_mean"), folder / "own", std::filesystem::copy_options::recursive);
  put(folder / "own/tokenizer.json", "{\"model\": {}}");
  put(folder / "own/vocab.txt", "[PAD]\n");
  put(folder / "own/README.md", "of the old model");
  const Pretrained model = load_pretrained(folder / "own");
  save_pretrained(folder / "new/saved", model);
  for (const char* file : {"modules.json", "1_Pooling/config.json", "2_Normalize/config.json", "tokenizer.json",
                           "vocab.txt", "sentence_bert_config.json", "config_sentence_transformers.json"}) {
    BOOST_TEST_CONTEXT(file) {
      BOOST_TEST(contents(folder / (std::string("new/saved/") + file)) ==
                 contents(folder / (std::string("own/") + file)));
    }
  }
  BOOST_TEST(!std::filesystem::exists(folder / "new/saved/README.md"));
  const std::string config = contents(folder / "new/saved/config.json");
  BOOST_TEST(config.find("\"layer_norm_eps\": 1e-12") != std::string::npos);
  BOOST_TEST(config.find("\"dtype\": \"float32\"") != std::string::npos);
  const SafetensorsFile weights = read_safetensors(folder / "new/saved/model.safetensors");
  BOOST_TEST(weights.metadata.at("format") == "pt");
  BOOST_TEST(weights.tensors.contains("pooler.dense.weight"));
  // Over its own folder too, whose other files stay.
  save_pretrained(folder / "own", model);
  BOOST_TEST(contents(folder / "own/README.md") == "of the old model");
  load_pretrained(folder / "own");
  std::filesystem::remove_all(folder / "own");
  BOOST_CHECK_EXCEPTION(save_pretrained(folder / "late", model), FileError, says({"own", "is missing"}));
  BOOST_TEST(!std::filesystem::exists(folder / "late"));
  BOOST_TEST(folder.entries() == 1);
}

BOOST_AUTO_TEST_CASE(parameters_made_later_are_drawn_and_not_saved) {
  const Pretrained a = load_pretrained(case_folder("bert_mean"), {.seed = 1});
  const Pretrained b = load_pretrained(case_folder("bert_mean"), {.seed = 2});
  const Linear head(a.builder().child("head"), 16, 4, Init::normal(1));
  const Linear other(b.builder().child("head"), 16, 4, Init::normal(1));
  BOOST_TEST(!same_bits(head.weight.value(), other.weight.value()));
  const Folder folder;
  save_pretrained(folder / "saved", a);
  BOOST_TEST(!read_safetensors(folder / "saved/model.safetensors").tensors.contains("head.weight"));
}

BOOST_AUTO_TEST_CASE(distances_of_mpnet_fall_into_the_same_ranges) {
  const Tensor buckets = ReferenceCase{"mpnet"}.reference().tensors.at("buckets");
  std::vector<std::int64_t> found;
  for (std::int64_t distance = -200; distance <= 200; ++distance) found.push_back(Mpnet::relative_bucket(distance));
  BOOST_TEST(found == buckets.to_vector<std::int64_t>(), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(a_text_without_its_end_is_refused_by_clip) {
  const Pretrained model = load_pretrained(case_folder("clip_end"));
  BOOST_CHECK_EXCEPTION(model.encode({Tensor::from({1, 4, 58, 1, 4, 5}, {2, 3})}), ValueError,
                        says({"sample 1 has no end-of-text token, 58"}));
}

/// As transformers does it where the end of a text is 2, and OpenCLIP always; also of texts without the vocabulary's
/// last id, whose values are those libraries'.
BOOST_AUTO_TEST_CASE(the_largest_id_is_pooled_by_older_clips) {
  const std::vector<double> expected{
      0.191978738036,  0.274315693835,  -0.125985745096, -0.439717807974, 0.700593658968,  -0.192450969514,
      -0.158722881184, 0.354413744058,  0.129030682250,  0.455606964666,  -0.239981975056, -0.310821658091,
      0.698853566124,  -0.223188495462, -0.186660336866, 0.220273540278,  -0.203896653266, -0.345201343797,
      0.187819250730,  -0.544368618510, 0.699516324991,  -0.051287869681, 0.040895584507,  0.118418494865};
  const std::vector<double> of_open_clip{
      0.095237628709,  -0.221389798745, -0.456999302847, 0.279064414348,  -0.004006634749, -0.295501680105,
      -0.056316108813, -0.751453418884, 0.269945466087,  0.152718647093,  -0.231114458732, -0.374680032077,
      -0.562799027226, 0.393968501440,  0.303144989177,  -0.382304369660, -0.554839900998, -0.671249957691,
      0.290762056405,  0.022921975942,  -0.109411964492, -0.322640027152, 0.100939700573,  0.173930445546};
  const Tensor ids = Tensor::from({5, 7, 58, 9, 6, 59, 3, 59, 7, 8, 40, 2}, {3, 4});
  for (const auto& [name, values] : {std::pair("clip", expected), std::pair("open_clip", of_open_clip)}) {
    const Pretrained model = load_pretrained(case_folder(name), {.dtype = DType::kFloat64});
    const Tensor right = Tensor::from(values, {3, 8});
    BOOST_TEST(max_difference(encoded(model, {ids}), right) <= 1e-9);
    // Padding takes no part, whatever its id.
    const Tensor padded = Tensor::from({5, 7, 58, 9, 59, 6, 59, 3, 59, 59, 7, 8, 40, 2, 41}, {3, 5});
    std::vector<bool> valid(15, true);
    for (const std::size_t column : {4, 9, 14}) valid[column] = false;
    BOOST_TEST(max_difference(encoded(model, {padded, Tensor::from(valid, {3, 5})}), right) <= 1e-9);
  }
}

BOOST_AUTO_TEST_CASE(classes_of_images) {
  const Pretrained classes = load_pretrained(case_folder("vit_classes"));
  BOOST_TEST(classes.classifies_images());
  BOOST_TEST(classes.info().labels.size() == 5u);
  BOOST_TEST(classes.info().labels.at(3) == "LABEL_3");
  BOOST_TEST(classes.info().width == 16);
  const Variable images(random_values({2, 3, 8, 8}, 7, DType::kFloat32));
  const NoRecording off;
  BOOST_TEST(classes.encode_images(images).size(1) == 16);
  BOOST_TEST(classes.classify_images(images).size(1) == 5);
  const Pretrained vit = load_pretrained(case_folder("vit"));
  BOOST_TEST(!vit.classifies_images());
  BOOST_TEST(vit.info().labels.empty());
  BOOST_TEST(vit.info().width == 12);
  BOOST_CHECK_EXCEPTION(vit.classify_images(images), ValueError, says({"vit", "classifies no images"}));
}

BOOST_AUTO_TEST_CASE(images_of_other_sizes) {
  const auto images = [](std::int64_t height, std::int64_t width) {
    return Variable(random_values({2, 3, height, width}, 7, DType::kFloat32));
  };
  const NoRecording off;
  BOOST_CHECK_EXCEPTION(load_pretrained(case_folder("vit")).encode_images(images(12, 8)), ShapeError,
                        says({"[2, 3, 12, 8]", "expected [batch, 3, 8, 8]"}));
  BOOST_CHECK_EXCEPTION(load_pretrained(case_folder("siglip_vision")).encode_images(images(8, 8)), ShapeError,
                        says({"[2, 3, 8, 8]", "expected [batch, channels, 10, 10]"}));
  const Pretrained dinov2 = load_pretrained(case_folder("dinov2"));
  BOOST_TEST(dinov2.encode_images(images(4, 40)).size(1) == 16);
  BOOST_CHECK_EXCEPTION(dinov2.encode_images(images(12, 10)), ShapeError, says({"not divided into patches of 4"}));
  BOOST_CHECK_EXCEPTION(dinov2.encode_images(images(0, 8)), ShapeError, says({"at least one patch of 4"}));
  BOOST_CHECK_EXCEPTION(dinov2.encode_images(Tensor::zeros({2, 1, 12, 12})), ShapeError, says({"[batch, 3, height"}));
}

BOOST_AUTO_TEST_CASE(a_token_that_masks_patches_is_kept) {
  const Folder folder;
  save_pretrained(folder / "saved", load_pretrained(case_folder("dinov2_classes")));
  const auto token = [](const std::filesystem::path& file) {
    return read_safetensors(file / "model.safetensors").tensors.at("dinov2.embeddings.mask_token");
  };
  BOOST_TEST(same_bits(token(folder / "saved"), token(case_folder("dinov2_classes"))));
}

BOOST_AUTO_TEST_CASE(siglip_pads_its_texts_itself) {
  const Pretrained model = load_pretrained(case_folder("siglip"));
  BOOST_TEST(model.info().pooling == "lasttoken");
  BOOST_TEST(model.info().normalized);
  BOOST_TEST(model.info().width == 24);
  BOOST_TEST(model.info().max_tokens == 12);
  BOOST_TEST(model.logit_bias().value().name() == "logit_bias");
  const Tensor expected = encoded(model, some_texts());
  // Whatever stands in the place of padding, and of whatever length the batch is.
  TokenBatch whole{Tensor::full({3, 12}, 1, DType::kInt64)};
  TokenBatch longer{Tensor::full({3, 7}, 9, DType::kInt32), Tensor::zeros({3, 7}, DType::kBool)};
  const std::vector<std::vector<std::int32_t>> texts{{5, 6, 7}, {8, 9}, {11}};
  for (std::size_t row = 0; row < texts.size(); ++row) {
    for (std::size_t i = 0; i < texts[row].size(); ++i) {
      whole.ids.mutable_data<std::int64_t>()[row * 12 + i] = texts[row][i];
      longer.ids.mutable_data<std::int32_t>()[row * 7 + i] = texts[row][i];
      longer.valid.mutable_data<bool>()[row * 7 + i] = true;
    }
  }
  BOOST_TEST(same_bits(expected, encoded(model, whole)));
  BOOST_TEST(same_bits(expected, encoded(model, longer)));
  const std::array<std::int64_t, 1> last{2};
  BOOST_TEST(same_bits(expected.slice(2, 3), encoded(model, longer.select(last))));
  BOOST_CHECK_EXCEPTION(model.encode(some_texts(true)), ValueError, says({"sample 1 is padded on the left"}));
}

BOOST_AUTO_TEST_CASE(weights_of_one_pooling_are_no_bert_of_another) {
  const Folder folder;
  save_pretrained(folder / "saved", load_pretrained(case_folder("bert_last_left")));
  const Bert bert(
      {.vocabulary = 60,
       .max_tokens = 12,
       .encoder = {.width = 16, .layers = 2, .heads = 2, .mlp_width = 24, .activation = ops::Activation::kSilu}},
      1);
  BOOST_CHECK_EXCEPTION(load_weights(folder / "saved/model.safetensors", bert.builder()), FileError,
                        says({"pooling lasttoken, expected mean"}));
}

BOOST_AUTO_TEST_CASE(folders_that_killed_writers_left) {
  const Folder folder;
  const std::filesystem::path left = folder / "saved.tmp-0123456789abcdef",
                              busy = folder / "saved.tmp-fedcba9876543210", other = folder / "saved.tmp-notes";
  for (const auto& place : {left, busy, other}) {
    std::filesystem::create_directory(place);
    put(place / "model.safetensors", "half");
  }
  const int held = ::open(busy.c_str(), O_RDONLY | O_DIRECTORY);
  BOOST_REQUIRE(::flock(held, LOCK_EX) == 0);
  save_pretrained(folder / "saved", load_pretrained(case_folder("bert_mean")));
  BOOST_TEST(!std::filesystem::exists(left));
  BOOST_TEST(std::filesystem::exists(busy / "model.safetensors"));  // of a writer that lives
  BOOST_TEST(std::filesystem::exists(other / "model.safetensors"));
  ::close(held);
  save_pretrained(folder / "saved", load_pretrained(case_folder("bert_mean")));
  BOOST_TEST(!std::filesystem::exists(busy));
  BOOST_TEST(folder.entries() == 2);  // what was saved, and what is another's
}

BOOST_AUTO_TEST_SUITE_END()
