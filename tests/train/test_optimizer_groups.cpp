#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "tapecache/core/error.h"
#include "tapecache/train/optimizer.h"
#include "train_checks.h"

using namespace tapecache;
using namespace tapecache::testing;
using namespace tapecache::train;

namespace {

std::vector<Parameter> named_parameters(const std::vector<std::string>& names) {
  std::vector<Parameter> all;
  for (const std::string& name : names) all.emplace_back(name, random_values({2, 3}, all.size()));
  return all;
}

/// What each parameter loses in a step of SGD at rate 1 by a gradient of 1: its factor.
std::map<std::string, double> factors(const std::vector<std::string>& names, const SgdOptions& options) {
  std::vector<Parameter> all = named_parameters(names);
  Sgd sgd(all, options);
  std::map<std::string, double> found;
  for (Parameter& p : all) {
    p.assign(Tensor::zeros({2, 3}, DType::kFloat64));
    p.mutable_gradient() = Tensor::full({2, 3}, 1, DType::kFloat64);
  }
  sgd.step(1);
  for (const Parameter& p : all) found[p.name()] = -doubles(p.value()).front();
  return found;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(optimizer_groups)

BOOST_AUTO_TEST_CASE(a_group_is_trained_as_by_an_optimizer_of_its_own) {
  const auto check = [](auto make_whole, auto make_own) {
    std::vector<Parameter> together = some_parameters(), apart = some_parameters();
    auto whole = make_whole(together);
    std::vector<Parameter> first{apart[0], apart[3]}, second{apart[1]}, third{apart[2]};
    auto of_first = make_own(first, 0.3), of_second = make_own(second, 0), of_third = make_own(third, 0.01);
    for (int step = 0; step < 4; ++step) {
      give_gradients(together, step);
      give_gradients(apart, step);
      const Number rate = step % 2 == 0 ? Number(0.02) : Number(Tensor::full({}, 0.02, DType::kFloat64));
      whole.step(rate, 0.5);
      of_first.step(rate, 0.5);
      of_second.step(0.02 * 3, 0.5);
      of_third.step(0.02 * 0.5, 0.5);
    }
    BOOST_TEST(same(together, copies(apart)));
  };
  const std::vector<Optimizer::Group> groups{
      {"vec*", 3, 0}, {"s[bc]*", 0.5, 0.01}, {"*[kx]", {}, 0.3}, {"vector", 9, 9}};  // of two that match the first
  check([&](auto& p) { return AdamW(p, {.groups = groups}); },
        [](auto& p, double decay) { return AdamW(p, {.weight_decay_of = [=](const Parameter&) { return decay; }}); });
  check([&](auto& p) { return Sgd(p, {.momentum = 0.9, .groups = groups}); },
        [](auto& p, double decay) {
          return Sgd(p, {.momentum = 0.9, .weight_decay_of = [=](const Parameter&) { return decay; }});
        });
}

BOOST_AUTO_TEST_CASE(without_groups_every_bit_is_as_it_was) {
  std::vector<Parameter> a = some_parameters(DType::kFloat32), b = some_parameters(DType::kFloat32);
  AdamW plain(a), grouped(b, {.groups = {{"*", 1, {}}}, .layer_decay = 1});
  give_gradients(a, 0);
  give_gradients(b, 0);
  plain.step(0.1);
  grouped.step(0.1);
  BOOST_TEST(same(a, copies(b)));
  BOOST_TEST(same(plain.state(), grouped.state()));
}

BOOST_AUTO_TEST_CASE(layers_are_trained_slower_the_lower_they_are) {
  const auto bert = factors(
      {"embeddings.word_embeddings.weight", "embeddings.LayerNorm.weight", "encoder.layer.0.output.dense.weight",
       "encoder.layer.2.output.dense.weight", "encoder.layer.11.output.dense.weight", "pooler.dense.weight"},
      {.layer_decay = 0.5});
  BOOST_TEST(bert.at("pooler.dense.weight") == 1);
  BOOST_TEST(bert.at("encoder.layer.11.output.dense.weight") == std::pow(0.5, 1));
  BOOST_TEST(bert.at("encoder.layer.2.output.dense.weight") == std::pow(0.5, 10));
  BOOST_TEST(bert.at("encoder.layer.0.output.dense.weight") == std::pow(0.5, 12));
  BOOST_TEST(bert.at("embeddings.LayerNorm.weight") == std::pow(0.5, 13));
  BOOST_TEST(bert.at("embeddings.word_embeddings.weight") == std::pow(0.5, 13));

  const auto clip =
      factors({"vision_model.embeddings.class_embedding", "vision_model.pre_layrnorm.weight",
               "vision_model.encoder.layers.3.mlp.fc1.weight", "vision_model.post_layernorm.weight",
               "text_model.embeddings.token_embedding.weight", "text_model.encoder.layers.0.mlp.fc1.weight",
               "text_model.encoder.layers.1.mlp.fc1.weight", "text_projection.weight", "logit_scale"},
              {.groups = {{"text_projection.*", 7, {}}}, .layer_decay = 0.5});
  BOOST_TEST(clip.at("vision_model.embeddings.class_embedding") == std::pow(0.5, 5));
  BOOST_TEST(clip.at("vision_model.pre_layrnorm.weight") == std::pow(0.5, 5));
  BOOST_TEST(clip.at("vision_model.encoder.layers.3.mlp.fc1.weight") == 0.5);
  BOOST_TEST(clip.at("text_model.encoder.layers.0.mlp.fc1.weight") == 0.25);
  BOOST_TEST(clip.at("text_model.embeddings.token_embedding.weight") == 0.125);
  BOOST_TEST(clip.at("vision_model.post_layernorm.weight") == 1);
  BOOST_TEST(clip.at("logit_scale") == 1);
  BOOST_TEST(clip.at("text_projection.weight") == 7);
  // A model without blocks is trained at one rate.
  BOOST_TEST(factors({"embedding.weight", "head.weight"}, {.layer_decay = 0.5}).at("embedding.weight") == 1);
}

BOOST_AUTO_TEST_CASE(groups_that_are_refused) {
  const auto refused = [](const AdamWOptions& options, std::vector<std::string> words) {
    BOOST_CHECK_EXCEPTION(AdamW(some_parameters(), options), ValueError, says(std::move(words)));
  };
  refused({.groups = {{"matrices", 1, 0}}}, {"AdamW: group 'matrices' matches none of 4 parameters, as 'matrix'"});
  refused({.groups = {{"m*", -1, 0}}}, {"rate_factor of the group of 'matrix' is -1"});
  refused({.groups = {{"m*", 1, std::numeric_limits<double>::infinity()}}},
          {"the weight_decay of the group of 'matrix' is inf"});
  refused({.layer_decay = 0}, {"layer_decay is 0, expected 0 < layer_decay <= 1"});
  refused({.layer_decay = 1.5}, {"layer_decay is 1.5"});
}

BOOST_AUTO_TEST_SUITE_END()
