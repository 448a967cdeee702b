// How models of folders pool and pad texts, and step.

#include <algorithm>
#include <array>
#include <filesystem>
#include <string>
#include <vector>

#include "checks.h"
#include "folder.h"
#include "pretrained_parts.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/core/random.h"
#include "tapecache/gradcache/grad_cache.h"
#include "tapecache/models/bert.h"
#include "tapecache/models/sentence_modules.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/reduce.h"

using namespace tapecache;
using namespace tapecache::models;
using namespace tapecache::testing;

BOOST_AUTO_TEST_SUITE(pretrained)

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

BOOST_AUTO_TEST_SUITE_END()
