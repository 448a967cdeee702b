#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include <fmt/format.h>

#include "model_checks.h"
#include "tapecache/core/error.h"
#include "tapecache/gradcache/tower.h"
#include "tapecache/models/bert.h"
#include "tapecache/models/clip.h"
#include "tapecache/models/pretrained.h"

using namespace tapecache;
using namespace tapecache::models;
using namespace tapecache::testing;

namespace {

using Sequences = std::vector<std::vector<std::int32_t>>;

}  // namespace

BOOST_AUTO_TEST_SUITE(model_errors)

BOOST_AUTO_TEST_CASE(models_that_cannot_be_built) {
  const auto vision = [](const std::function<void(VisionConfig&)>& change) {
    VisionConfig config = small_vision();
    change(config);
    VisionTransformer(Builder(1), config);
  };
  BOOST_CHECK_NO_THROW(vision([](auto&) {}));
  BOOST_CHECK_EXCEPTION(vision([](auto& c) { c.encoder.heads = 3; }), ValueError, says({"3 heads", "width of 8"}));
  BOOST_CHECK_EXCEPTION(vision([](auto& c) { c.encoder.heads = 0; }), ValueError, says({"heads 0"}));
  BOOST_CHECK_EXCEPTION(vision([](auto& c) { c.encoder.heads = -2; }), ValueError, says({"heads -2"}));
  BOOST_CHECK_EXCEPTION(vision([](auto& c) { c.encoder.layers = 0; }), ValueError, says({"layers 0"}));
  BOOST_CHECK_EXCEPTION(vision([](auto& c) { c.encoder.mlp_width = 0; }), ValueError, says({"mlp_width 0"}));
  BOOST_CHECK_EXCEPTION(vision([](auto& c) { c.encoder.width = 0; }), ValueError, says({"width 0"}));
  BOOST_CHECK_EXCEPTION(vision([](auto& c) { c.class_token = false; }), ValueError, says({"class_token is false"}));
  BOOST_CHECK_EXCEPTION(vision([](auto& c) { c.patch_size = 3; }), ValueError, says({"patches of 3", "images of 8"}));
  BOOST_CHECK_EXCEPTION(vision([](auto& c) { c.patch_size = 16; }), ValueError, says({"patches of 16", "images of 8"}));
  BOOST_CHECK_EXCEPTION(vision([](auto& c) { c.patch_size = 0; }), ValueError, says({"patches of 0", "images of 8"}));
  for (const double p : {1.0, -0.1, 1.5, std::numeric_limits<double>::quiet_NaN()}) {
    BOOST_CHECK_EXCEPTION(vision([&](auto& c) { c.encoder.dropout = p; }), ValueError, says({"dropout", "0 <= p < 1"}));
  }
  for (const double temperature : {0.0, -1.0, std::numeric_limits<double>::quiet_NaN()}) {
    ClipConfig config = small_clip();
    config.initial_temperature = temperature;
    BOOST_CHECK_EXCEPTION(Clip(config, 1), ValueError, says({"initial_temperature"}));
  }
  TextConfig text = small_text();
  text.encoder.heads = 5;
  BOOST_CHECK_EXCEPTION(TextTransformer(Builder(1), text), ValueError, says({"5 heads", "width of 12"}));
  BOOST_CHECK_EXCEPTION(MultiHeadAttention(Builder(1), 8, 0, {}, {}), ValueError, says({"0 heads"}));
  BOOST_CHECK_EXCEPTION(TransformerBlock(Builder(1), {.width = 8, .heads = 3, .mlp_width = 8}), ValueError,
                        says({"3 heads"}));
  BOOST_CHECK_EXCEPTION(Builder(1, DType::kInt32), DTypeError, says({"int32"}));
}

BOOST_AUTO_TEST_CASE(sizes_below_zero_are_refused_as_documented) {
  VisionConfig config = small_vision();
  config.patch_size = -4;
  BOOST_CHECK_THROW(VisionTransformer(Builder(1), config), ValueError);
  config = small_vision();
  config.encoder.width = -8;
  BOOST_CHECK_THROW(TransformerEncoder(Builder(1), TransformerConfig(config.encoder)), ValueError);
}

// As programs of our users may be compiled.
#pragma GCC diagnostic push
#pragma GCC diagnostic error "-Wmissing-field-initializers"
BOOST_AUTO_TEST_CASE(options_may_leave_members_out) {
  BOOST_TEST(ClipConfig{.projection_width = 5}.vision.image_size == 224);
  BOOST_TEST(!TokenBatch{.ids = Tensor::zeros({1, 2}, DType::kInt32)}.valid.defined());
  BOOST_TEST(BertConfig{.vocabulary = 7}.types == 2);
  BOOST_TEST(VisionConfig{.image_size = 8}.channels == 3);
  BOOST_TEST(TextConfig{.vocabulary = 8}.causal);
  BOOST_TEST(TransformerConfig{.width = 8}.heads == 8);
  // Naming some of what is nested leaves the rest as the architecture has it.
  const BertConfig bert{.encoder = {.width = 768, .layers = 12}};
  BOOST_TEST(bert.encoder.heads == 12);
  BOOST_TEST((bert.encoder.activation == ops::Activation::kGelu));
  BOOST_TEST(bert.encoder.epsilon == 1e-12);
  const ClipConfig clip{.vision = {.encoder = {.layers = 3}}, .text = {.encoder = {.layers = 2}}};
  BOOST_TEST(clip.vision.encoder.width == 768);
  BOOST_TEST(clip.vision.encoder.heads == 12);
  BOOST_TEST(clip.vision.encoder.mlp_width == 3072);
  BOOST_TEST((clip.vision.encoder.activation == ops::Activation::kQuickGelu));
  BOOST_TEST(clip.text.encoder.width == 512);
  BOOST_TEST(clip.text.encoder.epsilon == 1e-5);
  static_assert(!std::is_convertible_v<TransformerConfig, BertEncoderConfig>);
  static_assert(!std::is_convertible_v<BertEncoderConfig, TransformerConfig>);
  BOOST_TEST(BertEncoderConfig(TransformerConfig{.heads = 2, .dropout = 0.5}).heads == 2);
  BOOST_TEST(BertEncoderConfig(TransformerConfig{.heads = 2, .dropout = 0.5}).dropout == 0.5);
  BOOST_TEST(LoadOptions{.prefix = "bert."}.strict);
}
#pragma GCC diagnostic pop

BOOST_AUTO_TEST_CASE(layers_without_a_size_are_refused) {
  const Builder builder(1);
  const Builder part = builder.child("part");
  const Init init = Init::normal(1);
  for (const std::int64_t bad : {0, -3}) {
    const std::string found = std::to_string(bad);
    BOOST_CHECK_EXCEPTION(Linear(part, bad, 3, init), ValueError, says({"linear 'part'", "in " + found, "out 3"}));
    BOOST_CHECK_EXCEPTION(Linear(part, 3, bad, init), ValueError, says({"linear 'part'", "in 3", "out " + found}));
    BOOST_CHECK_EXCEPTION(LayerNorm(part, bad), ValueError, says({"layer norm 'part'", "width " + found}));
    BOOST_CHECK_EXCEPTION(Embedding(part, bad, 2, init), ValueError, says({"embedding 'part'", "entries " + found}));
    BOOST_CHECK_EXCEPTION(Embedding(part, 2, bad, init), ValueError, says({"embedding 'part'", "width " + found}));
    BOOST_CHECK_EXCEPTION(PatchEmbedding(part, bad, 2, 2), ValueError, says({"'part'", "channels " + found}));
    BOOST_CHECK_EXCEPTION(PatchEmbedding(part, 2, bad, 2), ValueError, says({"'part'", "patch " + found}));
    BOOST_CHECK_EXCEPTION(PatchEmbedding(part, 2, 2, bad), ValueError, says({"'part'", "width " + found}));
    BOOST_CHECK_EXCEPTION(MultiHeadAttention(part, bad, 1, init, init), ValueError, says({"width of " + found}));
    BOOST_CHECK_EXCEPTION(MultiHeadAttention(part, 4, bad, init, init), ValueError, says({found + " heads"}));
    BOOST_CHECK_EXCEPTION(TransformerBlock(part, {.width = 8, .layers = bad, .heads = 2, .mlp_width = 8}), ValueError,
                          says({"layers " + found}));
    BOOST_CHECK_EXCEPTION(
        TransformerBlock(part, {.width = 8, .layers = 1, .heads = 2, .mlp_width = bad}, BlockStyle::bert()), ValueError,
        says({"mlp_width " + found}));
    TextConfig text = small_text();
    text.vocabulary = bad;
    BOOST_CHECK_EXCEPTION(TextTransformer(part, text), ValueError, says({"text transformer", "vocabulary " + found}));
    text = small_text();
    text.max_tokens = bad;
    BOOST_CHECK_EXCEPTION(TextTransformer(part, text), ValueError, says({"text transformer", "max_tokens " + found}));
    VisionConfig vision = small_vision();
    vision.channels = bad;
    BOOST_CHECK_EXCEPTION(VisionTransformer(part, vision), ValueError, says({"vision", "channels " + found}));
    ClipConfig clip = small_clip();
    clip.projection_width = bad;
    BOOST_CHECK_EXCEPTION(Clip(clip, 1), ValueError, says({"clip", "projection_width", found}));
  }
  BertConfig bert{.encoder = {.width = 8, .layers = 1, .heads = 3, .mlp_width = 8}};
  BOOST_CHECK_EXCEPTION(Bert(part, bert), ValueError, says({"bert", "3 heads", "width of 8"}));
  TextConfig text = small_text();
  text.encoder.heads = 5;
  BOOST_CHECK_THROW(TextTransformer(part, text), ValueError);
  BOOST_TEST(builder.parameters().empty());  // what was refused has left nothing behind
}

BOOST_AUTO_TEST_CASE(rates_and_epsilons_out_of_range_are_refused) {
  const Builder builder(1);
  const Builder part = builder.child("part");
  const auto refused = [&](const auto& change, const std::vector<std::string>& words) {
    const auto in = [&](const char* model) {
      std::vector<std::string> all = words;
      all.push_back(std::string(model) + ": ");
      return says(all);
    };
    ClipConfig clip = small_clip();
    change(clip.text.encoder);
    BOOST_CHECK_EXCEPTION(Clip(part, clip), ValueError, in("text transformer"));
    BOOST_CHECK_EXCEPTION(TextTransformer(part, clip.text), ValueError, in("text transformer"));
    BOOST_CHECK_EXCEPTION(TransformerEncoder(part, clip.text.encoder), ValueError, in("transformer"));
    BOOST_CHECK_EXCEPTION(TransformerBlock(part, clip.text.encoder), ValueError, in("transformer"));
    clip = small_clip();
    change(clip.vision.encoder);
    BOOST_CHECK_EXCEPTION(Clip(part, clip), ValueError, in("vision transformer"));
    BOOST_CHECK_EXCEPTION(VisionTransformer(part, clip.vision), ValueError, in("vision transformer"));
    BertConfig bert;
    change(bert.encoder);
    BOOST_CHECK_EXCEPTION(TransformerBlock(part, TransformerConfig(bert.encoder), BlockStyle::bert()), ValueError,
                          in("bert block"));
    BOOST_CHECK_EXCEPTION(Bert(part, bert), ValueError, in("bert"));
  };
  for (const double bad : {1.0, 2.0, -0.1, kNaN, kInfinity}) {
    refused([&](auto& c) { c.dropout = bad; }, {"dropout is " + fmt::to_string(bad), "0 <= p < 1"});
    refused([&](auto& c) { c.drop_path = bad; }, {"drop_path is " + fmt::to_string(bad), "0 <= p < 1"});
  }
  for (const double bad : {0.0, -1e-5, kNaN, kInfinity}) {
    const std::vector<std::string> words{"epsilon is " + fmt::to_string(bad), "above 0 and finite"};
    refused([&](auto& c) { c.epsilon = bad; }, words);
    BOOST_CHECK_EXCEPTION(LayerNorm(part, 3, bad), ValueError, says({"layer norm 'part'", words[0], words[1]}));
  }
  BOOST_TEST(builder.parameters().empty());  // what was refused has left nothing behind
}

BOOST_AUTO_TEST_CASE(first_values_that_cannot_be_drawn) {
  const Builder builder(1);
  const auto refused = [&](const Init& init, const char* what) {
    BOOST_CHECK_EXCEPTION(builder.parameter("w", {2}, init), ValueError, says({"'w'", what}));
  };
  for (const double bad : {kNaN, -1.0, kInfinity}) refused(Init::normal(bad), "standard_deviation");
  for (const double bad : {kNaN, kInfinity}) refused(Init::constant(bad), "mean");
  refused(Init::uniform(1, 0), "half_range");
  refused({.half_range = kInfinity}, "half_range");
  BOOST_CHECK_THROW(Linear(builder, 2, 3, Init::normal(kNaN)), ValueError);
  BOOST_TEST(builder.parameters().empty());
}

BOOST_AUTO_TEST_CASE(parameters_of_one_name_are_refused) {
  const Builder builder(1);
  const Linear first(builder.child("fc"), 2, 3, Init::normal(1));
  BOOST_CHECK_EXCEPTION(Linear(builder.child("fc"), 2, 3, Init::normal(1)), ValueError, says({"'fc.weight'"}));
  BOOST_CHECK_EXCEPTION(builder.parameter("fc.bias", {1}, {}), ValueError, says({"'fc.bias'"}));
  BOOST_TEST(builder.parameters().size() == 2u);
  BOOST_CHECK_NO_THROW(builder.child("fc").parameter("other", {1}, {}));
  BOOST_TEST(builder.parameters().back().name() == "fc.other");
}

BOOST_AUTO_TEST_CASE(buffers_that_are_refused_leave_their_name_free) {
  const Builder builder(1);
  BOOST_CHECK_EXCEPTION(builder.buffer("b", Tensor()), DTypeError, says({"'b'", "undefined", "floating"}));
  BOOST_CHECK_EXCEPTION(builder.buffer("b", Tensor::zeros({2}, DType::kInt32)), DTypeError,
                        says({"'b'", "int32", "floating"}));
  BOOST_TEST(builder.buffers().empty());
  BOOST_CHECK_NO_THROW(builder.buffer("b", Tensor::zeros({2})));
}

BOOST_AUTO_TEST_CASE(images_of_the_wrong_shape) {
  const Builder builder(1);
  const VisionTransformer vision(builder, small_vision());
  for (const Shape& shape : {Shape{2, 3, 8, 4}, Shape{2, 3, 4, 8}, Shape{2, 1, 8, 8}, Shape{3, 8, 8}, Shape{2, 8, 8, 3},
                             Shape{2, 3, 16, 16}, Shape{1, 2, 3, 8, 8}, Shape{8}, Shape{}}) {
    BOOST_TEST_CONTEXT(to_string(shape)) {
      BOOST_CHECK_EXCEPTION(vision(Tensor::zeros(shape)), ShapeError, says({to_string(shape), "[batch, 3, 8, 8]"}));
    }
  }
  BOOST_CHECK_THROW(vision(Tensor::zeros({2, 3, 8, 8}, DType::kFloat64)), DTypeError);
  BOOST_CHECK_THROW(vision(Tensor::zeros({2, 3, 8, 8}, DType::kUInt8)), DTypeError);
  BOOST_CHECK_THROW(vision(Variable()), Error);
  BOOST_TEST((values_of([&] { return vision(Tensor::zeros({1, 3, 8, 8})); }).shape() == Shape{1, 8}));
}

BOOST_AUTO_TEST_CASE(tokens_that_do_not_fit) {
  const Builder builder(1);
  const TextTransformer text(builder, small_text());
  const auto ids = [](const Shape& shape, double id = 1) { return Tensor::full(shape, id, DType::kInt32); };
  BOOST_CHECK_NO_THROW(text({ids({2, 6}), {}}));
  BOOST_CHECK_NO_THROW(text({ids({2, 6}, 10).to(DType::kInt64), {}}));
  BOOST_CHECK_EXCEPTION(text({ids({2, 7}), {}}), ShapeError, says({"[2, 7]", "1 to 6 tokens"}));
  BOOST_CHECK_EXCEPTION(text({ids({2, 0}), {}}), ShapeError, says({"[2, 0]", "1 to 6 tokens"}));
  BOOST_CHECK_THROW(text({ids({6}), {}}), ShapeError);
  BOOST_CHECK_THROW(text({ids({1, 2, 3}), {}}), ShapeError);
  BOOST_CHECK_THROW(text({Tensor(), {}}), Error);
  BOOST_CHECK_EXCEPTION(text({ids({2, 3}, 11), {}}), ValueError, says({"11"}));
  BOOST_CHECK_EXCEPTION(text({ids({2, 3}, -1), {}}), ValueError, says({"-1"}));
  BOOST_CHECK_THROW(text({Tensor::zeros({2, 3}), {}}), DTypeError);
  BOOST_CHECK_THROW(text({ids({2, 3}), Tensor::full({2, 4}, 1, DType::kBool)}), ShapeError);
  BOOST_CHECK_THROW(text({ids({2, 3}), Tensor::full({2, 3}, 1, DType::kFloat32)}), DTypeError);
}

BOOST_AUTO_TEST_CASE(samples_without_a_valid_token) {
  for (const TextConfig::Pooling pooling : {TextConfig::Pooling::kLastToken, TextConfig::Pooling::kMean}) {
    TextConfig config = small_text();
    config.pooling = pooling;
    const Builder builder(1);
    const TextTransformer text(builder, config);
    TokenBatch tokens = TokenBatch::pad(std::vector<std::vector<std::int32_t>>{{1, 2}, {3, 4}});
    tokens.valid = Tensor::from(std::vector<double>{1, 1, 0, 0}, {2, 2}).to(DType::kBool);
    BOOST_TEST_CONTEXT("pooling " << static_cast<int>(pooling)) {
      BOOST_CHECK_EXCEPTION(text(tokens), ValueError, says({"sample 1"}));
    }
  }
}

BOOST_AUTO_TEST_CASE(masks_that_do_not_fit_their_tokens) {
  const TextTransformer tower(Builder(3, DType::kFloat64), small_text());
  TokenBatch tokens = TokenBatch::pad(Sequences{{1, 2}, {3}});
  tokens.valid = Tensor::full({2, 3}, 1, DType::kBool);
  BOOST_CHECK_EXCEPTION(tower(tokens), ShapeError, says({"text transformer", "[2, 3]", "[2, 2]"}));
  tokens.valid = Tensor::full({2, 2}, 1, DType::kUInt8);
  BOOST_CHECK_EXCEPTION(tower(tokens), DTypeError, says({"text transformer", "uint8", "bool"}));
}

BOOST_AUTO_TEST_CASE(masks_are_not_cut_unless_they_fit) {
  const Tensor ids = Tensor::full({4, 8}, 1, DType::kInt32);
  const std::vector<std::int64_t> first{0};
  const auto refused = [&]<class E>(E*, const TokenBatch& tokens, const std::vector<std::string>& words) {
    BOOST_CHECK_EXCEPTION(tokens.lengths(), E, says(words));
    BOOST_CHECK_EXCEPTION(tokens.select(first), E, says(words));
    BOOST_CHECK_EXCEPTION(tokens.slice(0, 1), E, says(words));
  };
  ShapeError* const shape_error = nullptr;
  DTypeError* const dtype_error = nullptr;
  for (const Shape& shape : {Shape{4, 1}, Shape{1, 8}, Shape{5, 8}, Shape{4, 9}, Shape{4}, Shape{}}) {
    refused(shape_error, {ids, Tensor::full(shape, 1, DType::kBool)}, {"token batch", to_string(shape), "[4, 8]"});
  }
  refused(dtype_error, {ids, Tensor::full({4, 8}, 1, DType::kUInt8)}, {"token batch", "uint8", "bool"});
  refused(shape_error, {ids.reshape({2, 2, 8}), {}}, {"token batch", "[2, 2, 8]", "[batch, tokens]"});
  refused(shape_error, {}, {"token batch", "undefined", "[batch, tokens]"});

  // A step that cuts by tokens asks for lengths before an encoder has seen the batch.
  const auto encode = [](const TokenBatch& t) { return Variable(t.ids); };
  BOOST_CHECK_THROW(gradcache::Tower("text", TokenBatch{ids, Tensor::full({4, 1}, 1, DType::kBool)}, encode),
                    ShapeError);
}

BOOST_AUTO_TEST_CASE(sequences_that_there_are_not) {
  const TokenBatch tokens = TokenBatch::pad(Sequences{{1, 2}, {3}});
  for (const std::int64_t bad : {-1, 2, 5}) {
    const std::vector<std::int64_t> chosen{1, bad};
    BOOST_CHECK_EXCEPTION(tokens.select(chosen), ValueError,
                          says({"select", "sequence " + std::to_string(bad), "2 from 0"}));
  }
  BOOST_TEST((tokens.select({}).ids.shape() == Shape{0, 1}));
  const std::vector<std::int64_t> both{1, 0};
  const TokenBatch empty{Tensor::zeros({2, 0}, DType::kInt32), Tensor::zeros({2, 0}, DType::kBool)};
  BOOST_TEST((empty.select(both).ids.shape() == Shape{2, 0}));
}

BOOST_AUTO_TEST_CASE(token_batches_have_a_longest_length) {
  BOOST_CHECK_EXCEPTION(TokenBatch::pad(Sequences{{1}, {1, 2, 3}}, 0, 1, 2), ShapeError,
                        says({"sequence 1", "3 tokens", "at most 2"}));
  BOOST_CHECK_EQUAL(TokenBatch::pad(Sequences{{1, 2}}, 0, 2, 2).ids.size(1), 2);
  BOOST_CHECK_THROW(TokenBatch::pad(Sequences{{1}}, 0, 3, 2), ValueError);
}

BOOST_AUTO_TEST_SUITE_END()
