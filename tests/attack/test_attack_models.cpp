#include <algorithm>
#include <filesystem>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "attack.h"
#include "folder.h"
#include "gradcache_checks.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/models/bert.h"
#include "tapecache/models/lora.h"
#include "tapecache/models/pretrained.h"
#include "tapecache/train/optimizer.h"

using namespace tapecache;
using namespace tapecache::models;
using namespace tapecache::testing;

namespace {

/// A small model, made anew for each try, and what its adapter is to be.
struct Adapted {
  std::optional<Bert> bert;
  std::optional<Lora> lora;
  Folder folder;

  static BertConfig config() {
    return {.vocabulary = 7, .max_tokens = 4, .encoder = {.width = 8, .layers = 1, .heads = 2, .mlp_width = 12}};
  }
  void prepare() {
    begin_random_step(1, 1);
    lora.reset();
    bert.reset();
    bert.emplace(config(), 3);
    bert->set_training(false);
  }
  /// With an adapter that does something.
  void prepare_adapted() {
    prepare();
    lora = add_lora(*bert, {.rank = 2, .alpha = 3});
    std::uint64_t seed = 10;
    for (Parameter p : lora->parameters()) p.assign(random_values(p.value().shape(), ++seed, DType::kFloat32));
  }
  double sum() const {
    const NoRecording off;
    const Tensor y = (*bert)(TokenBatch{Tensor::from({1, 2, 3, 4}, {2, 2})}).value();
    double total = 0;
    for (std::int64_t i = 0; i < y.numel(); ++i) total += (1 + static_cast<double>(i)) * y.data<float>()[i];
    return total;
  }
  /// Throws where the model is not as it was before it was to be adapted.
  void require_free(std::size_t parameters, double before) const {
    const std::vector<Parameter>& all = bert->parameters();
    if (all.size() != parameters) throw std::logic_error("parameters are left");
    if (!std::ranges::all_of(all, &Parameter::requires_gradient)) throw std::logic_error("parameters are frozen");
    if (sum() != before) throw std::logic_error("the model computes something else");
  }
};

}  // namespace

/// Adapters and averages of models: there whole, or not at all.
BOOST_AUTO_TEST_SUITE(attack_models)

BOOST_AUTO_TEST_CASE(adapters_that_are_added_and_loaded) {
  Adapted adapted;
  adapted.prepare_adapted();
  save_lora(adapted.folder / "adapter", *adapted.lora, "base");
  const auto attack_adapting = [&](const std::string& name, const std::function<Lora()>& adapt) {
    const Work work{name,
                    {},
                    [&] { adapted.prepare(); },
                    [&] {
                      const std::size_t parameters = adapted.bert->parameters().size();
                      const double before = adapted.sum();
                      try {
                        adapted.lora = adapt();
                      } catch (...) {
                        adapted.require_free(parameters, before);
                        throw;
                      }
                      return static_cast<double>(adapted.bert->parameters().size());
                    },
                    0,
                    [&] { return adapted.sum() + static_cast<double>(adapted.lora->layers().size()); }};
    BOOST_TEST(attack(work, Memory::kObjects, 5) > 20);
    BOOST_TEST(attack(work, Memory::kTensors) > 12);
  };
  attack_adapting("add_lora", [&] { return add_lora(*adapted.bert, {.rank = 2, .targets = {"query", ".*dense"}}); });
  attack_adapting("load_lora", [&] { return load_lora(adapted.folder / "adapter", *adapted.bert); });
}

BOOST_AUTO_TEST_CASE(adapters_that_are_merged_and_taken_apart) {
  Adapted adapted;
  adapted.prepare_adapted();
  const std::vector<Parameter> parameters = adapted.bert->parameters();
  const bool begins_merged[] = {false, true};
  for (const bool merged : begins_merged) {
    const Work work{merged ? "Lora::unmerge" : "Lora::merge",
                    {parameters, {}},
                    [&, merged] {
                      begin_random_step(1, 1);
                      merged ? adapted.lora->merge() : adapted.lora->unmerge();
                    },
                    [&, merged] {
                      try {
                        merged ? adapted.lora->unmerge() : adapted.lora->merge();
                      } catch (...) {
                        if (adapted.lora->merged() != merged) throw std::logic_error("counts as what it is not");
                        throw;
                      }
                      return adapted.lora->merged() ? 1.0 : 0.0;
                    }};
    if (merged) {
      attack(work, Memory::kObjects);
      continue;
    }
    BOOST_TEST(attack(work, Memory::kObjects) > 20);
    BOOST_TEST(attack(work, Memory::kTensors) > 12);
  }
}

BOOST_AUTO_TEST_CASE(an_adapter_that_is_saved) {
  Adapted adapted;
  adapted.prepare_adapted();
  const std::filesystem::path folder = adapted.folder / "adapter";
  const auto loaded = [&] {
    const Bert bert(Adapted::config(), 3);
    const Lora lora = load_lora(folder, bert);
    double total = 0;
    for (const Parameter& p : lora.parameters())
      total += p.value().data<float>()[0] + static_cast<double>(p.value().numel());
    return total;
  };
  // Over another one, of another rank and scale.
  const Bert other(Adapted::config(), 5);
  const Lora before = add_lora(other, {.rank = 3, .alpha = 7});
  const Work save{"save_lora",
                  {{}, {}, {}, folder},
                  [&] { save_lora(folder, before, "before"); },
                  [&] { return save_lora(folder, *adapted.lora, "base"), 0; }};
  save_lora(folder, before, "before");
  const double old_sum = loaded();
  BOOST_TEST(attack(save, Memory::kObjects, 3) > 50);
  BOOST_TEST(loaded() != old_sum);
}

BOOST_AUTO_TEST_CASE(averages_of_parameters) {
  std::vector<Parameter> parameters{{"w", random_values({6, 5}, 1, DType::kFloat32)},
                                    {"b", random_values({6}, 2, DType::kFloat64)}};
  const std::vector<Buffer> buffers{{"mean", random_values({6}, 3)}};
  std::vector<Tensor> first;
  for (const Parameter& p : parameters) first.push_back(p.value().clone());
  std::optional<train::Ema> ema;
  const auto begin = [&] {
    for (std::size_t i = 0; i < parameters.size(); ++i) parameters[i].mutable_value().copy_from(first[i]);
  };
  const auto sum = [&] {
    double total = static_cast<double>(ema->updates());
    for (const Buffer& b : ema->state()) {
      for (const double value : doubles(b.value.to(DType::kFloat64))) total += value;
    }
    return total;
  };
  const Work make{"Ema",
                  {parameters, buffers},
                  [&] { begin(), ema.reset(); },
                  [&] {
                    ema.emplace(parameters, train::EmaOptions{}, buffers);
                    return 0;
                  },
                  0,
                  sum};
  BOOST_TEST(attack(make, Memory::kObjects) > 5);
  BOOST_TEST(attack(make, Memory::kTensors) > 3);

  ema.reset();
  begin();
  ema.emplace(parameters, train::EmaOptions{.decay = 0.5, .warm_up = false}, buffers);
  std::vector<Buffer> changing = buffers;
  changing.insert(changing.end(), ema->state().begin(), ema->state().end());
  std::vector<Tensor> averages;
  for (const Buffer& b : ema->state()) averages.push_back(b.value.clone());
  const auto begin_averaged = [&] {
    for (Parameter& p : parameters) p.mutable_value().fill(0.25);
    for (std::size_t i = 0; i < averages.size(); ++i) Tensor(ema->state()[i].value).copy_from(averages[i]);
  };
  const Work update{"Ema::update", {parameters, changing}, begin_averaged, [&] { return ema->update(), 0; }};
  BOOST_TEST(attack(update, Memory::kObjects) > 5);
  BOOST_TEST(attack(update, Memory::kTensors) > 3);

  const Work use{"Ema::use", {parameters, changing}, begin_averaged, [&] {
                   const train::Ema::Scope scope = ema->use();
                   return static_cast<double>(parameters[0].value().data<float>()[0]);
                 }};
  BOOST_TEST(attack(use, Memory::kObjects) > 2);
  BOOST_TEST(attack(use, Memory::kTensors) > 2);
}

BOOST_AUTO_TEST_SUITE_END()
