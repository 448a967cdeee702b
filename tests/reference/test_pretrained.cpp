// What load_pretrained takes from a folder, beside giving the right values.

#include <algorithm>
#include <filesystem>
#include <string>

#include "checks.h"
#include "folder.h"
#include "pretrained_parts.h"
#include "tapecache/core/device.h"
#include "tapecache/models/bert.h"
#include "tapecache/models/lora.h"

using namespace tapecache;
using namespace tapecache::models;
using namespace tapecache::testing;

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

BOOST_AUTO_TEST_SUITE_END()
