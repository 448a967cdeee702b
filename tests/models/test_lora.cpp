#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "folder.h"
#include "lora_checks.h"
#include "tapecache/autograd/modes.h"
#include "tapecache/core/device.h"
#include "tapecache/core/error.h"
#include "tapecache/core/random.h"
#include "tapecache/gradcache/grad_cache.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/linear.h"
#include "tapecache/train/checkpoint.h"
#include "tapecache/train/optimizer.h"

using namespace tapecache;
using namespace tapecache::models;
using namespace tapecache::testing;

namespace {

std::map<std::string, Tensor> gradients_of(std::span<const Parameter> parameters, const Forward& forward) {
  clear_gradients(parameters);
  run_backward(forward);
  std::map<std::string, Tensor> gradients;
  for (const Parameter& p : parameters) {
    if (p.gradient().defined()) gradients.emplace(p.name(), p.gradient().clone());
  }
  clear_gradients(parameters);
  return gradients;
}

Tensor product(const Tensor& a, const Tensor& b, const ops::MatmulOptions& options = {}) {
  return ops::scale(ops::matmul(a, b, options), 5.0 / 3).value();
}

}  // namespace

BOOST_AUTO_TEST_SUITE(lora)

BOOST_AUTO_TEST_CASE(at_first_nothing_is_added_and_the_base_is_frozen) {
  const Clip clip(small_clip(), 3, DType::kFloat64);
  const Tensor before = values_of([&] { return clip.encode_image(small_images(5)); });
  const std::size_t count = clip.parameters().size();
  const Lora lora = add_lora(clip, {.rank = 4});
  BOOST_TEST(lora.layers().size() == 26u);  // two blocks of six in each tower, two projections
  BOOST_TEST(clip.parameters().size() == count + 2 * 26);
  BOOST_TEST(max_difference(values_of([&] { return clip.encode_image(small_images(5)); }), before) == 0);
  for (std::size_t i = 0; i < clip.parameters().size(); ++i) {
    BOOST_TEST(clip.parameters()[i].requires_gradient() == (i >= count));
  }
  // A is drawn as PyTorch draws it, within 1 / √in; B is 0.
  for (const Parameter& p : lora.parameters()) {
    const std::vector<double> values = doubles(p.value());
    double most = 0;
    for (const double v : values) most = std::fmax(most, std::abs(v));
    const double range =
        p.name().ends_with("lora_A.weight") ? 1 / std::sqrt(static_cast<double>(p.value().size(1))) : 0;
    BOOST_TEST(most <= range);
    BOOST_TEST(most >= 0.7 * range);
  }
}

BOOST_AUTO_TEST_CASE(a_forward_is_that_of_the_summed_weights) {
  for (const Targets& targets : kTargets) {
    const Adapted adapted(targets), merged(targets);
    merged.merge();
    const auto apart = adapted.forwards(), together = merged.forwards();
    for (std::size_t i = 0; i < apart.size(); ++i) {
      BOOST_TEST_CONTEXT(targets.clip.front() << ", forward " << i) {
        const Tensor y = values_of(apart[i]);
        BOOST_TEST(max_difference(y, values_of(together[i])) <= 1e-13);
      }
    }
    // and the adapters do something
    for (const Lora& lora : merged.adapters()) lora.unmerge();
    for (const Parameter& p : merged.parameters()) {
      if (p.name().ends_with("lora_B.weight")) Parameter(p).assign(Tensor::zeros(p.value().shape(), DType::kFloat64));
    }
    BOOST_TEST(max_difference(values_of(apart[2]), values_of(together[2])) > 1e-3);
  }
}

BOOST_AUTO_TEST_CASE(a_model_with_adapters_is_freed) {
  const std::size_t before = Device::cpu().memory_stats().current;
  {
    const Adapted adapted(kTargets[0], 0.1);
    BOOST_TEST(Device::cpu().memory_stats().current > before);
  }
  BOOST_TEST(Device::cpu().memory_stats().current == before);
}

BOOST_AUTO_TEST_CASE(gradients_are_those_of_the_summed_weights) {
  for (const Targets& targets : kTargets) {
    for (const bool checkpoint : {false, true}) {
      const Adapted adapted(targets, 0, checkpoint), merged(targets);
      merged.merge();
      for (Parameter p : merged.parameters()) p.set_requires_gradient(true);
      for (std::size_t i = 0; i < 3; ++i) {
        const auto apart = gradients_of(adapted.parameters(), adapted.forwards()[i]);
        const auto whole = gradients_of(merged.parameters(), merged.forwards()[i]);
        std::size_t compared = 0;
        const Lora lora = i < 2 ? adapted.of_clip : adapted.of_bert;
        for (std::size_t layer = 0; layer < lora.layers().size(); ++layer) {
          const std::string name = lora.layers()[layer];
          const Parameter a = lora.parameters()[2 * layer], b = lora.parameters()[2 * layer + 1];
          const bool takes_part = apart.contains(a.name());
          BOOST_REQUIRE(takes_part == whole.contains(name + ".weight"));
          if (!takes_part) continue;
          const Tensor& of_weight = whole.at(name + ".weight");
          BOOST_TEST(max_difference(apart.at(a.name()), product(b.value(), of_weight, {.transpose_a = true})) <= 1e-12);
          BOOST_TEST(max_difference(apart.at(b.name()), product(of_weight, a.value(), {.transpose_b = true})) <= 1e-12);
          compared += 2;
        }
        BOOST_TEST(compared > 0u);
        BOOST_TEST(compared == apart.size());
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(unmerged_weights_have_the_bits_they_had) {
  const Adapted adapted(kTargets[0]);
  const auto before = values_by_name(adapted.clip.parameters());
  const Tensor y = values_of(adapted.forwards()[0]);
  for (int round = 0; round < 2; ++round) {
    adapted.of_clip.merge();
    adapted.of_clip.merge();  // once is enough
    BOOST_TEST(adapted.of_clip.merged());
    BOOST_TEST(!same_values(adapted.clip.parameters(), before));
    adapted.of_clip.unmerge();
    adapted.of_clip.unmerge();
    BOOST_TEST(!adapted.of_clip.merged());
    BOOST_TEST(same_values(adapted.clip.parameters(), before));
  }
  BOOST_TEST(same_bits(values_of(adapted.forwards()[0]), y));
}

BOOST_AUTO_TEST_CASE(scales) {
  const auto difference = [](const LoraOptions& options) {
    const Builder builder(9, DType::kFloat64);
    const Bert model(builder, tiny_bert());
    const Lora lora = add_lora(model, options);
    shake(lora.parameters(), 12);
    const Parameter& weight = named(builder.parameters(), lora.layers()[0] + ".weight");
    const Tensor before = weight.value().clone();
    lora.merge();
    const Tensor ba = ops::matmul(lora.parameters()[1], lora.parameters()[0]).value();
    return doubles(ops::subtract(weight.value(), before).value())[0] / doubles(ba)[0];
  };
  BOOST_TEST(difference({.rank = 4, .alpha = 6}) == 1.5, boost::test_tools::tolerance(1e-9));
  BOOST_TEST(difference({.rank = 4, .alpha = 6, .rank_stabilized = true}) == 3, boost::test_tools::tolerance(1e-9));
}

BOOST_AUTO_TEST_CASE(the_cached_step_is_the_direct_one) {
  for (const double dropout : {0.0, 0.3}) {
    for (const bool checkpoint : {false, true}) {
      const Adapted adapted(kTargets[0], dropout, checkpoint);
      for (const gradcache::StepOptions& options :
           {gradcache::StepOptions{.cut = {1}}, gradcache::StepOptions{.cut = {2}},
            gradcache::StepOptions{.cut = gradcache::ChunkTokens{8, {2}}},
            gradcache::StepOptions{.cut = gradcache::MemoryBudget{std::size_t{1} << 22}}}) {
        begin_random_step(5, 3);
        const gradcache::Comparison found =
            gradcache::compare(adapted.towers(), Adapted::loss, options, adapted.of_clip.parameters());
        BOOST_TEST(found.relative_norm <= 1e-11);
        BOOST_TEST(found.loss_reference == found.loss_other, boost::test_tools::tolerance(1e-12));
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(dropout_is_of_what_a_takes_and_of_training_alone) {
  const Adapted adapted(kTargets[0], 0.4), without(kTargets[0]);
  for (std::size_t i = 0; i < 3; ++i) {
    begin_random_step(1, 1);
    const Tensor dropped = values_of(adapted.forwards()[i]), plain = values_of(without.forwards()[i]);
    BOOST_TEST(max_difference(dropped, plain) > 1e-3);
    adapted.set_training(false);
    BOOST_TEST(same_bits(values_of(adapted.forwards()[i]), plain));
    adapted.set_training(true);
  }
  // The base is not dropped: with B of 0 nothing is random.
  const Clip clip(small_clip(), 3, DType::kFloat64);
  const Tensor y = values_of([&] { return clip.encode_image(small_images(5)); });
  add_lora(clip, {.dropout = 0.5});
  BOOST_TEST(max_difference(values_of([&] { return clip.encode_image(small_images(5)); }), y) == 0);
}

BOOST_AUTO_TEST_CASE(a_block_that_is_computed_again_drops_as_it_did) {
  const Adapted kept(kTargets[0], 0.3), again(kTargets[0], 0.3, true);
  const auto gradients = [](const Adapted& of, bool change) {
    clear_gradients(of.clip.parameters());
    begin_random_step(2, 2);
    Tape tape;
    Variable y;
    {
      const Recording recording(tape);
      y = of.forwards()[0]();
    }
    if (change) of.set_training(false);
    const Tensor cotangent = random_values(y.shape(), 5);
    inject(tape, std::span(&y, 1), std::span(&cotangent, 1));
    BOOST_TEST(of.clip.training() == !change);
    of.set_training(true);
    std::vector<Tensor> all;
    for (const Parameter& p : of.of_clip.parameters()) {
      if (p.gradient().defined()) all.push_back(p.gradient().clone());
    }
    return all;
  };
  const auto expected = gradients(kept, false);
  for (const bool change : {false, true}) {
    const auto found = gradients(again, change);
    BOOST_REQUIRE(found.size() == expected.size());
    for (std::size_t i = 0; i < found.size(); ++i) BOOST_TEST(max_difference(found[i], expected[i]) <= 1e-13);
  }
}

BOOST_AUTO_TEST_CASE(products_of_16_bits_read_adapters_too) {
  for (const double dropout : {0.0, 0.3}) {
    const Clip clip(small_clip(), 3);
    shake(clip.parameters(), 60);
    const Lora lora = add_lora(clip, {.rank = 3, .alpha = 5, .dropout = dropout});
    shake(lora.parameters(), 160);
    const auto forward = [&] { return clip.encode_text(sentences()); };
    const auto gradients = [&](DType dtype) {
      const Autocast precision(dtype);
      begin_random_step(2, 2);
      return gradients_of(lora.parameters(), forward);
    };
    const auto full = gradients(DType::kFloat32), half = gradients(DType::kBFloat16);
    BOOST_TEST(full.size() == 2 * 13u);
    double difference = 0, norm = 0;
    for (const auto& [name, gradient] : full) {
      const std::vector<double> a = doubles(gradient), b = doubles(half.at(name));
      for (std::size_t i = 0; i < a.size(); ++i) difference += (a[i] - b[i]) * (a[i] - b[i]), norm += a[i] * a[i];
    }
    BOOST_TEST(std::sqrt(difference / norm) <= 0.05);
    BOOST_TEST(difference > 0);
  }
}

BOOST_AUTO_TEST_CASE(bits_do_not_depend_on_the_rows_beside_them) {
  const Clip clip(small_clip(), 3);
  shake(add_lora(clip, {.rank = 3}).parameters(), 160);
  const Tensor images = small_images(5, DType::kFloat32);
  const Tensor all = values_of([&] { return clip.encode_image(images); });
  for (std::int64_t i = 0; i < 5; ++i) {
    BOOST_TEST(
        same_bits(values_of([&] { return clip.encode_image(images.slice(i, i + 1)); }), all.slice(i, i + 1).clone()));
  }
}

BOOST_AUTO_TEST_CASE(what_cannot_be_adapted) {
  const Clip clip(small_clip(), 3);
  const std::size_t count = clip.parameters().size();
  const auto refused = [&](const LoraOptions& options, std::vector<std::string> words) {
    BOOST_CHECK_EXCEPTION(add_lora(clip, options), ValueError, says(std::move(words)));
  };
  refused({.rank = 0}, {"lora: rank 0; each must be at least 1"});
  refused({.rank = std::int64_t{1} << 40}, {"lora: rank is 1099511627776, expected at most 65536"});
  for (const double alpha : {1.0 * NAN, 1e39}) {
    refused({.alpha = alpha}, {"lora: alpha is ", "expected a number that is finite in float32"});
  }
  refused({.dropout = 1}, {"lora: dropout is 1"});
  refused({.targets = {}}, {"targets is empty"});
  refused({.targets = {"q_proj", "query"}},
          {"target 'query' is no linear layer", "called like 'vision_model.encoder.layers.0.self_attn.q_proj'"});
  refused({.targets = {"proj"}}, {"target 'proj'"});  // no part of a part
  refused({.targets = {"q_proj*("}}, {"target 'q_proj*(' is no regular expression"});
  refused({.targets = {"layer_norm1"}}, {"target 'layer_norm1'"});
  BOOST_TEST(clip.parameters().size() == count);
  for (const Parameter& p : clip.parameters()) BOOST_TEST(p.requires_gradient());
  add_lora(clip, {.targets = {"q_proj"}});
  refused({.targets = {"fc1", "q_proj"}},
          {"layer 'vision_model.encoder.layers.0.self_attn.q_proj' is adapted already"});
  add_lora(clip, {.targets = {"fc1"}});  // another one may be
}

BOOST_AUTO_TEST_CASE(targets) {
  const auto layers = [](std::vector<std::string> chosen) {
    const Clip clip(small_clip(), 3);
    return add_lora(clip, {.rank = 1, .targets = std::move(chosen)}).layers();
  };
  const std::string vision = "vision_model.encoder.layers.", text = "text_model.encoder.layers.";
  BOOST_TEST(
      layers({"q_proj"}) == (std::vector<std::string>{vision + "0.self_attn.q_proj", vision + "1.self_attn.q_proj",
                                                      text + "0.self_attn.q_proj", text + "1.self_attn.q_proj"}),
      boost::test_tools::per_element());
  BOOST_TEST(layers({"1.mlp.fc1", "1.mlp.fc1", text + "0.mlp.fc2"}) ==
                 (std::vector<std::string>{vision + "1.mlp.fc1", text + "0.mlp.fc2", text + "1.mlp.fc1"}),
             boost::test_tools::per_element());
  BOOST_TEST(layers({"text_model.*1.*(k|v)_proj"}) ==
                 (std::vector<std::string>{text + "1.self_attn.k_proj", text + "1.self_attn.v_proj"}),
             boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(training_goes_on_from_a_checkpoint_to_the_same_bits) {
  const Folder folder;
  const auto train = [&](const Adapted& of, int from, int to, train::AdamW& adam) {
    for (int step = from; step < to; ++step) {
      begin_random_step(3, static_cast<std::uint32_t>(step));
      gradcache::cached_step(of.towers(), Adapted::loss, {.cut = {2}});
      adam.step(1e-2);
      adam.clear_gradients();
    }
  };
  const Adapted whole(kTargets[0], 0.2), first(kTargets[0], 0.2), second(kTargets[0], 0.2);
  const auto base = values_by_name(whole.clip.parameters());
  train::AdamW of_whole(whole.of_clip.parameters()), of_first(first.of_clip.parameters()),
      of_second(second.of_clip.parameters());
  train(whole, 0, 4, of_whole);
  train(first, 0, 2, of_first);
  save_checkpoint(folder / "c", first.of_clip.parameters(), of_first, {.step = 2});
  load_checkpoint(folder / "c", second.of_clip.parameters(), of_second);
  train(second, 2, 4, of_second);
  BOOST_TEST(same_values(second.clip.parameters(), values_by_name(whole.clip.parameters())));
  std::size_t changed = 0;
  for (const Parameter& p : whole.clip.parameters()) changed += same_bits(p.value(), base.at(p.name())) ? 0 : 1;
  BOOST_TEST(changed == whole.of_clip.parameters().size());
}

BOOST_AUTO_TEST_SUITE_END()
