#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "folder.h"
#include "lora_checks.h"
#include "tapecache/core/error.h"

using namespace tapecache;
using namespace tapecache::models;
using namespace tapecache::testing;

BOOST_AUTO_TEST_SUITE(lora_folder)

BOOST_AUTO_TEST_CASE(a_saved_adapter_loads_again_to_the_same_bits) {
  const Folder folder;
  for (const Targets& targets : kTargets) {
    const Adapted adapted(targets);
    save_lora(folder / "adapter", adapted.of_bert, "some/base");
    BOOST_TEST(Lora::is_in(folder / "adapter"));
    BOOST_TEST(!Lora::is_in(folder.path()));
    BOOST_TEST(Lora::base_of(folder / "adapter") == "some/base");
    const Builder builder(7, DType::kFloat64);
    const Bert other(builder.child("text"), tiny_bert());
    for (Parameter p : builder.parameters()) p.assign(named(adapted.bert.parameters(), p.name().substr(5)).value());
    const Lora again = load_lora(folder / "adapter", other);
    BOOST_TEST(again.layers().size() == adapted.of_bert.layers().size());
    for (std::size_t i = 0; i < again.parameters().size(); ++i) {
      BOOST_TEST(again.parameters()[i].name() == "text." + adapted.of_bert.parameters()[i].name());
      BOOST_TEST(same_bits(again.parameters()[i].value(), adapted.of_bert.parameters()[i].value()));
    }
    BOOST_TEST(same_bits(values_of([&] { return other(sentences()); }), values_of(adapted.forwards()[2])));
  }
}

BOOST_AUTO_TEST_CASE(ranks_and_scales_by_layer) {
  const Folder folder;
  const Adapted adapted(kTargets[0]);
  save_lora(folder / "a", adapted.of_bert);
  SafetensorsFile file = read_safetensors(folder / "a/adapter_model.safetensors");
  for (auto& [name, tensor] : file.tensors) {
    if (name.find("1.attention.self.query") == std::string::npos) continue;
    tensor = name.ends_with("A.weight") ? tensor.slice(0, 2).clone() : random_values({8, 2}, 3);
  }
  write_safetensors(folder / "a/adapter_model.safetensors", file);
  std::string config = contents(folder / "a/adapter_config.json");
  config.replace(config.find("\"rank_pattern\": {}"), 18,
                 R"("rank_pattern": {"1.attention.self.query": 2, "query": 3})");
  config.replace(config.find("\"alpha_pattern\": {}"), 19, R"("alpha_pattern": {"key": 7.5})");
  put(folder / "a/adapter_config.json", config);
  const auto load = [&](const char* name) {
    const Builder builder(4, DType::kFloat64);
    const Bert bert(builder, tiny_bert());
    shake(bert.parameters(), 80);
    const Lora lora = load_lora(folder / name, bert);
    return std::pair(lora, values_of([&] { return bert(sentences()); }));
  };
  const auto [lora, y] = load("a");
  for (const Parameter& p : lora.parameters()) {
    if (!p.name().ends_with("lora_B.weight")) continue;
    const bool narrow = p.name().find("1.attention.self.query") != std::string::npos;
    BOOST_TEST(p.value().size(1) == (narrow ? 2 : 3));
    const double alpha = p.name().find(".key.") != std::string::npos ? 7.5 : 5;
    BOOST_TEST(p.settings().at("lora_scale") == fmt::to_string(alpha / (narrow ? 2 : 3)));
  }
  save_lora(folder / "b", lora);
  BOOST_TEST(same_bits(load("b").second, y));
}

BOOST_AUTO_TEST_CASE(adapters_that_are_refused) {
  const Folder folder;
  const Adapted adapted(kTargets[1]);
  const auto refused = [&](const std::function<void(std::string&, SafetensorsFile&)>& change,
                           std::vector<std::string> words, const BertConfig& config = tiny_bert()) {
    save_lora(folder / "a", adapted.of_bert);
    std::string text = contents(folder / "a/adapter_config.json");
    SafetensorsFile file = read_safetensors(folder / "a/adapter_model.safetensors");
    change(text, file);
    put(folder / "a/adapter_config.json", text);
    write_safetensors(folder / "a/adapter_model.safetensors", file);
    const Builder builder(4, DType::kFloat64);
    const Bert bert(builder, config);
    const std::size_t count = bert.parameters().size();
    BOOST_CHECK_EXCEPTION(load_lora(folder / "a", bert), FileError, says(std::move(words)));
    BOOST_TEST(bert.parameters().size() == count);
    for (const Parameter& p : bert.parameters()) BOOST_TEST(p.requires_gradient());
  };
  const auto field = [](const std::string& from, const std::string& to) {
    return [=](std::string& text, SafetensorsFile&) {
      BOOST_REQUIRE(text.find(from) != std::string::npos);
      text.replace(text.find(from), from.size(), to);
    };
  };
  const std::string query = "base_model.model.encoder.layer.0.attention.self.query.lora_A.weight";
  refused(field("\"r\": 3", "\"r\": 4"),
          {"adapter_model.safetensors", "'" + query + "' has shape [3, 8], expected [4, 8]"});
  refused(field("\"r\": 3", "\"r\": 0"), {"adapter_config.json: r is 0, expected a whole number"});
  refused(field("LORA", "LOHA"), {"peft_type is \"LOHA\", expected \"LORA\""});
  refused(field("\"use_dora\": false", "\"use_dora\": true"), {"use_dora is true, expected none"});
  refused(field("\"bias\": \"none\"", "\"bias\": \"all\""), {"bias is \"all\", expected \"none\""});
  refused(field("\"modules_to_save\": null", "\"modules_to_save\": [\"x\"]"), {"modules_to_save is [\"x\"]"});
  refused(field("\"init_lora_weights\": true", "\"init_lora_weights\": \"pissa\""), {"init_lora_weights is \"pissa\""});
  refused(field("\"rank_pattern\": {}", "\"rank_pattern\": {\"a.*\": 2}"), {"rank_pattern.a.* is 2"});
  refused([&](auto&, auto& file) { file.tensors.erase(query); }, {"'" + query + "' is missing"});
  refused([&](auto&, auto& file) { file.tensors.emplace("base_model.model.x.lora_embedding_A", Tensor::zeros({1})); },
          {"'base_model.model.x.lora_embedding_A' is no part of a linear layer's adapter"});
  refused([&](auto&, auto& file) { file.tensors[query] = Tensor::full({3, 8}, NAN); }, {"NaN"});
  refused([&](auto&, auto& file) { file.tensors.clear(); }, {"adapts no layer"});
  BertConfig wider = tiny_bert(), fewer = tiny_bert();
  wider.encoder.width = 10;
  fewer.encoder.layers = 1;
  refused([](auto&, auto&) {}, {"'" + query + "' has shape [3, 8], expected [3, 10]"}, wider);
  refused([](auto&, auto&) {},
          {"adapts 'encoder.layer.1.attention.self.query', the model has no such linear layer, but 'encoder.layer.0."},
          fewer);
}

BOOST_AUTO_TEST_SUITE_END()
