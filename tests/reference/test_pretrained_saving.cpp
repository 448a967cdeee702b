// What save_pretrained writes, keeps and takes away.

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "checks.h"
#include "folder.h"
#include "pretrained_parts.h"
#include "tapecache/models/bert.h"

using namespace tapecache;
using namespace tapecache::models;
using namespace tapecache::testing;

BOOST_AUTO_TEST_SUITE(pretrained)

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

BOOST_AUTO_TEST_CASE(a_token_that_masks_patches_is_kept) {
  const Folder folder;
  save_pretrained(folder / "saved", load_pretrained(case_folder("dinov2_classes")));
  const auto token = [](const std::filesystem::path& file) {
    return read_safetensors(file / "model.safetensors").tensors.at("dinov2.embeddings.mask_token");
  };
  BOOST_TEST(same_bits(token(folder / "saved"), token(case_folder("dinov2_classes"))));
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
