#include <filesystem>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

#include "attack.h"
#include "folder.h"
#include "gradcache_checks.h"
#include "tapecache/models/pretrained.h"
#ifdef TAPECACHE_HAS_TOKENIZERS
#include "tapecache/data/tokenizers/tokenizer.h"
#endif

using namespace tapecache;
using namespace tapecache::testing;

namespace {

const std::filesystem::path kReference = TAPECACHE_REFERENCE;

/// The sum of all its values.
double sum_of(const models::Pretrained& model) {
  double sum = 0;
  for (const Parameter& p : model.parameters()) {
    for (std::int64_t i = 0; i < p.value().numel(); ++i) sum += p.value().data<float>()[i];
  }
  return sum;
}

}  // namespace

/// Folders of published models: what is loaded is whole or not at all, and so is what is saved.
BOOST_AUTO_TEST_SUITE(attack_folders)

BOOST_AUTO_TEST_CASE(models_that_are_loaded) {
  for (const char* name : {"bert_dense", "bert_cls_shards", "clip", "mpnet", "modernbert", "qwen3", "siglip",
                           "dinov2_registers_classes", "open_clip"}) {
    const std::filesystem::path folder = kReference / "cases" / name;
    for (const bool map : {false, true}) {
      const Work load{std::string("load_pretrained of ") + name,
                      {},
                      [] {},
                      [&] { return sum_of(models::load_pretrained(folder, {.memory_map = map})); }};
      BOOST_TEST(attack(load, Memory::kObjects, 23) > 15);
      if (!map) BOOST_TEST(attack(load, Memory::kTensors) > 5);
    }
  }
}

BOOST_AUTO_TEST_CASE(a_model_that_is_saved_over_another) {
  const models::Pretrained model = models::load_pretrained(kReference / "cases" / "bert_dense"),
                           other = models::load_pretrained(kReference / "cases" / "bert_mean");
  const Folder folder;
  const auto loaded = [&] { return sum_of(models::load_pretrained(folder / "saved")); };
  models::save_pretrained(folder / "other", other);
  const auto begin = [&] {
    std::filesystem::remove_all(folder / "saved");
    std::filesystem::copy(folder / "other", folder / "saved", std::filesystem::copy_options::recursive);
  };
  begin();
  const double before = loaded();
  const Work save{"save_pretrained over another", {}, begin, [&] {
                    try {
                      models::save_pretrained(folder / "saved", model);
                    } catch (const std::bad_alloc&) {
                      if (loaded() != before) throw std::logic_error("the folder has parts of both");
                      throw;
                    }
                    return loaded();
                  }};
  BOOST_TEST(attack(save, Memory::kObjects, 67) > 50);
  for (const auto& entry : std::filesystem::directory_iterator(folder.path())) {
    BOOST_TEST((entry.path().filename() == "saved" || entry.path().filename() == "other"));
  }
}

BOOST_AUTO_TEST_CASE(a_model_that_is_saved) {
  const models::Pretrained model = models::load_pretrained(kReference / "cases" / "bert_dense");
  const Folder folder;
  const auto clear = [&] {
    for (const auto& entry : std::filesystem::directory_iterator(folder.path())) std::filesystem::remove_all(entry);
  };
  // A folder that is made anew is whole when it is there.
  const Work save{"save_pretrained", {}, clear, [&] {
                    double sum = 0;
                    try {
                      models::save_pretrained(folder / "saved", model);
                    } catch (...) {
                      BOOST_TEST(!std::filesystem::exists(folder / "saved"));
                      throw;
                    }
                    sum = sum_of(models::load_pretrained(folder / "saved"));
                    return sum;
                  }};
  BOOST_TEST(attack(save, Memory::kObjects, 29) > 50);
}

#ifdef TAPECACHE_HAS_TOKENIZERS
BOOST_AUTO_TEST_CASE(tokenizers_that_are_loaded) {
  const std::pair<const char*, std::int64_t> strides[]{
      {"bert_uncased", 211},     {"bert_uncased_files", 211}, {"roberta_files", 211}, {"xlm_roberta", 211},
      {"llama_model", 97},       {"siglip_model", 97},        {"t5_model", 97},       {"gemma", 211},
      {"xlm_roberta_model", 97}, {"unigram_bytes", 97}};
  for (const auto& [name, stride] : strides) {
    const Work load{std::string("Tokenizer::load of ") + name,
                    {},
                    [] {},
                    [&] {
                      const auto tokenizer = data::Tokenizer::load(kReference / "tokenizers" / name);
                      return static_cast<double>(tokenizer.encode("to the last bit, where asked").ids.size());
                    }};
    BOOST_TEST(attack(load, Memory::kObjects, stride) > 10);
  }
}
#endif

BOOST_AUTO_TEST_SUITE_END()
