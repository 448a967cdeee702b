#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "folder.h"
#include "model_checks.h"
#include "tapecache/core/error.h"
#include "tapecache/core/files.h"
#include "tapecache/models/bert.h"
#include "tapecache/models/pretrained.h"

using namespace tapecache;
using namespace tapecache::models;
using namespace tapecache::testing;

namespace {

BertConfig bert_of(std::int64_t layers) {
  BertConfig config;
  config.vocabulary = 11;
  config.max_tokens = 6;
  config.encoder.width = 8;
  config.encoder.heads = 2;
  config.encoder.mlp_width = 12;
  config.encoder.layers = layers;
  return config;
}

struct SmallBert {
  Builder builder;
  Bert bert;

  explicit SmallBert(std::uint64_t seed, std::int64_t layers = 2, const std::string& name = "")
      : builder(seed), bert(name.empty() ? builder : builder.child(name), bert_of(layers)) {}

  SafetensorsFile file(const std::string& prefix = "") const {
    SafetensorsFile file;
    for (const Parameter& p : builder.parameters()) file.tensors.emplace(prefix + p.name(), p.value().clone());
    return file;
  }
};

/// What transformers writes of a BertForPreTraining beside the encoder.
void add_heads(SafetensorsFile& file, const std::string& encoder) {
  file.tensors.emplace(encoder + "pooler.dense.weight", Tensor::zeros({8, 8}));
  file.tensors.emplace(encoder + "pooler.dense.bias", Tensor::zeros({8}));
  file.tensors.emplace(encoder + "embeddings.position_ids", Tensor::zeros({1, 6}, DType::kInt64));
  file.tensors.emplace("cls.predictions.bias", Tensor::zeros({11}));
  file.tensors.emplace("cls.seq_relationship.weight", Tensor::zeros({2, 8}));
}

}  // namespace

BOOST_AUTO_TEST_SUITE(bert_weights)

BOOST_AUTO_TEST_CASE(published_heads_are_passed_over) {
  const Folder folder;
  const SmallBert other(2);
  for (const std::string prefix : {"", "bert."}) {
    const SmallBert model(1);
    SafetensorsFile file = other.file(prefix);
    add_heads(file, prefix);
    write_safetensors(folder / "w", file);
    load_weights(folder / "w", model.builder, {.prefix = prefix});
    BOOST_TEST(same_values(model.builder.parameters(), values_by_name(other.builder.parameters())));
  }
  // As a part of a larger model.
  const SmallBert inside(1, 2, "bert");
  SafetensorsFile file = other.file("bert.");
  add_heads(file, "bert.");
  write_safetensors(folder / "w", file);
  load_weights(folder / "w", inside.builder);
  const auto values = values_by_name(other.builder.parameters());
  for (const Parameter& p : inside.builder.parameters()) {
    BOOST_TEST(same_bits(p.value(), values.at(p.name().substr(5))), p.name());
  }
}

BOOST_AUTO_TEST_CASE(other_surplus_is_refused) {
  const Folder folder;
  const SmallBert model(1), other(2);
  SafetensorsFile file = other.file();
  file.tensors.emplace("poolers.weight", Tensor::zeros({8, 8}));
  file.tensors.emplace("encoder.pooler.weight", Tensor::zeros({8, 8}));
  write_safetensors(folder / "w", file);
  BOOST_CHECK_EXCEPTION(load_weights(folder / "w", model.builder), FileError,
                        says({"'poolers.weight' belongs to no", "'encoder.pooler.weight' belongs to no"}));
  // Where the model has a head of that name, what is there beyond it is surplus; and where it is no BERT.
  file = other.file();
  file.tensors.emplace("pooler.dense.weight", Tensor::zeros({8, 8}));
  file.tensors.emplace("pooler.dense.bias", Tensor::zeros({8}));
  write_safetensors(folder / "w", file);
  model.builder.parameter("pooler.dense.weight", {8, 8}, Init::constant(1));
  BOOST_CHECK_EXCEPTION(load_weights(folder / "w", model.builder), FileError,
                        says({"'pooler.dense.bias' belongs to no"}));
  file.tensors = {{"w", Tensor::zeros({1})}, {"pooler.dense.bias", Tensor::zeros({8})}};
  write_safetensors(folder / "w", file);
  const std::vector<Parameter> own{{"w", Tensor::zeros({1})}};
  BOOST_CHECK_EXCEPTION(load_weights(folder / "w", own), FileError, says({"'pooler.dense.bias' belongs to no"}));
}

BOOST_AUTO_TEST_CASE(a_file_of_more_layers_is_refused) {
  const Folder folder;
  const SmallBert model(1), deeper(2, 12);
  const auto before = values_by_name(model.builder.parameters());
  for (const bool strict : {true, false}) {
    for (const std::string prefix : {"", "bert."}) {
      write_safetensors(folder / "w", deeper.file(prefix));
      BOOST_CHECK_EXCEPTION(
          load_weights(folder / "w", model.builder, {.strict = strict, .prefix = prefix}), FileError,
          says({"'" + prefix + "encoder.layer.' goes on to " + prefix + "encoder.layer.11 in the file",
                "in the model to encoder.layer.1"}));
      BOOST_TEST(same_values(model.builder.parameters(), before));
    }
  }
  // Fewer are missing, and numbers of something else do not count.
  write_safetensors(folder / "w", SmallBert(2, 1).file());
  BOOST_CHECK_EXCEPTION(load_weights(folder / "w", model.builder, {.strict = false}), FileError,
                        says({"'encoder.layer.1.", "is missing"}));
  SafetensorsFile file = SmallBert(2).file();
  file.tensors.emplace("head.7.weight", Tensor::zeros({1}));
  file.tensors.emplace("encoder.layer.7.adapter", Tensor::zeros({1}));
  write_safetensors(folder / "w", file);
  load_weights(folder / "w", model.builder, {.strict = false});
  BOOST_TEST(!same_values(model.builder.parameters(), before));
}

BOOST_AUTO_TEST_CASE(names_of_before_give_the_same_bits) {
  const Folder folder;
  const SmallBert model(1), other(2);
  shake(other.builder.parameters(), 100);
  SafetensorsFile file;
  for (auto& [name, tensor] : other.file().tensors) {
    std::string then = name;
    if (const auto at = then.find("LayerNorm.weight"); at != std::string::npos) then.replace(at, 16, "LayerNorm.gamma");
    if (const auto at = then.find("LayerNorm.bias"); at != std::string::npos) then.replace(at, 14, "LayerNorm.beta");
    file.tensors.emplace(then, tensor);
  }
  BOOST_REQUIRE(file.tensors.contains("encoder.layer.1.attention.output.LayerNorm.gamma"));
  write_safetensors(folder / "w", file);
  load_weights(folder / "w", model.builder);
  BOOST_TEST(same_values(model.builder.parameters(), values_by_name(other.builder.parameters())));
  const std::vector<std::vector<std::int32_t>> texts{{1, 2, 3}, {4, 5}};
  const TokenBatch tokens = TokenBatch::pad(texts);
  BOOST_TEST(same_bits(values_of([&] { return model.bert(tokens); }), values_of([&] { return other.bert(tokens); })));
}

BOOST_AUTO_TEST_SUITE_END()
