#include <functional>
#include <string>
#include <vector>

#include "folder.h"
#include "model_checks.h"
#include "tapecache/core/error.h"
#include "tapecache/core/files.h"
#include "tapecache/models/bert.h"
#include "tapecache/models/clip.h"
#include "tapecache/models/layers.h"
#include "tapecache/models/pretrained.h"

using namespace tapecache;
using namespace tapecache::models;
using namespace tapecache::testing;

BOOST_AUTO_TEST_SUITE(weight_settings)

BOOST_AUTO_TEST_CASE(weights_are_not_loaded_under_other_settings) {
  const Folder folder;
  BertConfig bert{.vocabulary = 11, .max_tokens = 6, .encoder = {.width = 8, .layers = 2, .heads = 2, .mlp_width = 12}};
  const Builder saved(1);
  const Bert from(saved.child("bert"), bert);
  save_weights(folder / "w", saved.child("bert"));
  const auto load = [&](const std::function<void(BertConfig&)>& change, const LoadOptions& options = {}) {
    BertConfig other = bert;
    change(other);
    const Builder builder(2);
    const Bert to(builder.child("mine"), other);
    const auto before = values_by_name(builder.parameters());
    try {
      load_weights(folder / "w", builder.child("mine"), options);
    } catch (const FileError&) {
      BOOST_TEST(same_values(builder.parameters(), before));
      throw;
    }
    BOOST_TEST(same_bits(builder.parameters()[0].value(), saved.parameters()[0].value()));
  };
  BOOST_CHECK_NO_THROW(load([](auto&) {}));
  BOOST_CHECK_NO_THROW(
      load([](auto& c) { c.encoder.dropout = 0.5, c.encoder.drop_path = 0.1, c.encoder.checkpoint = true; }));
  const auto refused = [&](const std::function<void(BertConfig&)>& change, const std::vector<std::string>& words) {
    BOOST_CHECK_EXCEPTION(load(change), FileError, says(words));
    BOOST_CHECK_NO_THROW(load(change, {.allow_other_settings = true}));
  };
  refused([](auto& c) { c.encoder.heads = 4; },
          {"'encoder.layer.0.attention.self.query.weight' was saved with heads 2, expected 4", "'encoder.layer.1."});
  refused([](auto& c) { c.encoder.activation = ops::Activation::kQuickGelu; },
          {"'encoder.layer.0.intermediate.dense.weight' was saved with activation gelu, expected quick_gelu"});
  refused([](auto& c) { c.encoder.epsilon = 1e-5; },
          {"'embeddings.LayerNorm.weight' was saved with epsilon 1e-12, expected 1e-05"});
  refused([](auto& c) { c.pooling = BertConfig::Pooling::kCls; }, {"pooling mean, expected cls"});
  refused([](auto& c) { c.max_tokens = 4, c.position_offset = 2; }, {"position_offset 0, expected 2"});

  ClipConfig config = small_clip();
  const Clip clip(config, 1);
  save_weights(folder / "clip", clip.parameters());
  const auto other = [&](const std::function<void(ClipConfig&)>& change, const std::vector<std::string>& words) {
    ClipConfig changed = config;
    change(changed);
    const Clip to(changed, 2);
    BOOST_CHECK_EXCEPTION(load_weights(folder / "clip", to.builder()), FileError, says(words));
  };
  other([](auto& c) { c.vision.encoder.heads = 4; },
        {"'vision_model.encoder.layers.0.self_attn.q_proj.weight'", "heads 2, expected 4"});
  other([](auto& c) { c.text.causal = false; },
        {"'text_model.embeddings.position_embedding.weight'", "causal true, expected false"});
  other([](auto& c) { c.text.pooling = TextConfig::Pooling::kEndOfText; }, {"pooling last token, expected token 10"});
  other([](auto& c) { c.vision.pooling = VisionConfig::Pooling::kMean; },
        {"'vision_model.embeddings.class_embedding'", "pooling cls"});
  other([](auto& c) { c.text.encoder.activation = ops::Activation::kGelu; }, {"activation quick_gelu, expected gelu"});

  // A block by itself, and weights whose file does not tell.
  const Builder one(1), two(2);
  const TransformerBlock single(one, {.width = 4, .layers = 1, .heads = 1, .mlp_width = 4});
  const TransformerBlock twin(two, {.width = 4, .layers = 1, .heads = 2, .mlp_width = 4});
  save_weights(folder / "block", one);
  BOOST_CHECK_EXCEPTION(load_weights(folder / "block", two), FileError, says({"heads 1, expected 2"}));
  BOOST_TEST(
      read_safetensors(folder / "block").metadata.at("tapecache.settings") ==
      R"({"layer_norm1.weight":{"epsilon":"1e-05","norm":"before the branch"},"layer_norm2.weight":{"epsilon":"1e-05"},)"
      R"("mlp.fc1.weight":{"activation":"quick_gelu"},"self_attn.q_proj.weight":{"heads":"1"}})");
  write_safetensors(folder / "block", file_of(one.parameters()));
  BOOST_CHECK_NO_THROW(load_weights(folder / "block", two));
  const std::vector<std::string> no_settings{"x", "[]", R"({"a":1})", R"({"a":{"b":{}}})", std::string(10000, '[')};
  for (const std::string& broken : no_settings) {
    SafetensorsFile file = file_of(one.parameters());
    file.metadata["tapecache.settings"] = broken;
    write_safetensors(folder / "block", file);
    BOOST_CHECK_EXCEPTION(load_weights(folder / "block", two), FileError, says({"block", "'tapecache.settings'"}));
  }
}

BOOST_AUTO_TEST_SUITE_END()
